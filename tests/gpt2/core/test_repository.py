import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.core.repository import examine
from scripts.deps import ROOT

NOBODY = 65534


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory without git settings."""
    for variable in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    for variable in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "home").mkdir()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "it's a clone"
    place.mkdir()
    return place


def shell(command: str, directory: Path) -> None:
    subprocess.run(command, shell=True, cwd=directory, check=True, capture_output=True)


def test_each_remedy_works(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(variable, "a")
    for variable in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(variable, "a@b")
    (place / "file").touch()
    found = examine(place)
    assert found.problem.startswith("no git repository here")
    assert found.stops
    shell("git init", place)
    empty = examine(place)
    assert (empty.problem, empty.stops) == ("no commit here", False)
    shutil.rmtree(place / ".git")
    shell(found.remedy, place)
    made = examine(place)
    assert (bool(re.fullmatch("[0-9a-f]{7,}", made.commit)), made.problem) == (True, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_a_directory_of_another_user(
    place: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGUAGE", language)
    shell("git init && git -c user.name=a -c user.email=a@b commit --allow-empty -m x", place)
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    found = examine(place)
    assert "belongs to another user" in found.problem
    assert not found.stops
    shell(found.remedy.removeprefix("If you trust it: "), place)
    assert not examine(place).problem


def test_a_machine_without_git(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    assert examine(place).problem == "git is not installed"


def test_make_run_reports_it_before_it_installs_anything(place: Path) -> None:
    shutil.copy(ROOT / "Makefile", place)
    (place / "src" / "gpt2" / "core").mkdir(parents=True)
    for name in ("__init__.py", "core/__init__.py", "core/repository.py"):
        shutil.copy(ROOT / "src" / "gpt2" / name, place / "src" / "gpt2" / name)
    command = ["make", f"PYTHON={sys.executable}", "run"]
    done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no git repository here (a .zip download has none).")
    assert not (place / ".venv").exists()
