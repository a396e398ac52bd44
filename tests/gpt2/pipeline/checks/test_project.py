"""Checks of git, DVC and MLflow, in real repositories and stores."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.pipeline.checks import project
from tests.file_server import serving


def run_git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_git_wants_a_commit(tmp_path: Path) -> None:
    assert project.git(tmp_path).remedy.startswith("git init && git add .")
    run_git(tmp_path, "init")
    check = project.git(tmp_path)
    assert (check.verdict, check.finding) == ("problem", "no commit here")
    run_git(tmp_path, "commit", "--allow-empty", "-m", "one")
    assert project.git(tmp_path).works


def test_dvc_must_run_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert project.dvc(tmp_path).finding == "not on the PATH"
    (programs / "dvc").touch(mode=0o755)
    assert "is not a DVC repository" in project.dvc(tmp_path).finding
    (tmp_path / ".dvc").mkdir()
    assert project.dvc(tmp_path).finding == "its stages would run no python at all"
    (programs / "python").write_text("#!/bin/sh\necho /another\n")
    (programs / "python").chmod(0o755)
    assert project.dvc(tmp_path).finding == f"its stages would run {programs / 'python'}"
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert project.dvc(tmp_path).verdict == "works"


def test_the_store_of_mlflow(tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.mlflow(tmp_path).works
    assert not list(tmp_path.iterdir())  # nothing was created
    sqlite3.connect(tmp_path / "mlflow.db").close()
    assert project.mlflow(tmp_path).works
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    check = project.mlflow(tmp_path)
    assert (check.verdict, check.finding) == ("absent", "mlflow.db: file is not a database")
    for uri, works in (("off", True), (nobody, False), ("http://[", False)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert project.mlflow(tmp_path).works == works
    with serving(tmp_path) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert project.mlflow(tmp_path).works
