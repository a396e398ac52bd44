import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gpt2.tracking.context import (
    fingerprint,
    flatten,
    git_tags,
    has_ended,
    invocation,
    pipeline_name,
    process_key,
    run_name,
    versions,
)

PARAMS = {"profile": "gpt2-124m", "finetune": {"lr": 5e-5, "model": {"layers": 12}}}


@pytest.mark.parametrize(
    ("params", "highlight", "name"),
    [
        (PARAMS, "finetune.lr", "finetune · lr=5e-5 · gpt2-124m"),
        (PARAMS, "finetune.model.layers", "finetune · layers=12 · gpt2-124m"),
        (PARAMS, "finetune.gone", "finetune · gpt2-124m"),
        ({"finetune": {"lr": 0.002}}, "finetune.lr", "finetune · lr=0.002"),
        ({"finetune": {"lr": 1e10}}, "finetune.lr", "finetune · lr=1e+10"),
        ({"finetune": {"lr": None}}, "finetune.lr", "finetune · lr=None"),
        ({}, None, "finetune"),
    ],
)
def test_a_run_is_named_by_stage_parameter_and_profile(
    params: dict[str, object], highlight: str | None, name: str
) -> None:
    assert run_name("finetune", params, highlight) == name


def test_a_pipeline_is_named_by_profile_and_experiment() -> None:
    assert pipeline_name(PARAMS, "spicy-llama") == "gpt2-124m · spicy-llama"
    assert pipeline_name({}, "spicy-llama") == "spicy-llama"


def test_the_fingerprint_is_that_of_the_values_not_of_their_order() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_versions_are_those_of_the_packages() -> None:
    import mlflow

    assert versions()["mlflow"] == mlflow.__version__
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))


def test_git_says_the_commit_and_whether_code_differs_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return process.stdout.strip()

    assert git_tags(tmp_path) == {}
    git("init", "--quiet")
    assert git_tags(tmp_path) == {}
    (tmp_path / "metrics").mkdir()
    for name in ("code.py", "dvc.lock", "metrics/a.json"):
        (tmp_path / name).write_text("1")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    for name in ("dvc.lock", "metrics/a.json", "untracked.txt"):
        (tmp_path / name).write_text("2")
    assert git_tags(tmp_path) == {"mlflow.source.git.commit": commit, "git_dirty": "false"}
    (tmp_path / "code.py").write_text("2")
    assert git_tags(tmp_path) == {"mlflow.source.git.commit": commit, "git_dirty": "true"}


def test_no_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_tags(Path.cwd()) == {}


def test_a_process_has_ended_once_it_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(psutil.Process(process.pid))
        assert not has_ended(key)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(key)  # a zombie: nobody has waited for it
    assert has_ended(key)
    host, pid, started = process_key(psutil.Process()).split()
    assert has_ended(f"{host} {pid} {float(started) - 100}")  # its process id is reused
    assert not has_ended(f"elsewhere {pid} 1.0")
    assert not has_ended(None)


@pytest.mark.skipif(sys.platform != "linux", reason="imitates /proc/stat of Linux")
def test_a_process_is_the_same_after_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = process_key(psutil.Process())
    shown = Path("/proc/stat").read_text(encoding="utf-8")
    an_hour_on = re.sub(r"(?m)^btime (\d+)$", lambda found: f"btime {int(found[1]) + 3600}", shown)
    assert an_hour_on != shown
    (tmp_path / "stat").write_text(an_hour_on)
    (tmp_path / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    created = psutil.Process().create_time()
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert psutil.Process().create_time() - created == pytest.approx(3600, abs=2)
    assert process_key(psutil.Process()) == key
    assert not has_ended(key)


def test_an_experiment_is_one_invocation_as_long_as_its_parameters_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert invocation({}) is None
    monkeypatch.setenv("DVC_EXP_NAME", "spicy-llama")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    first, again, other = invocation({"a": 1}), invocation({"a": 1}), invocation({"a": 2})
    assert first and again and other
    assert first.label == "spicy-llama"
    assert first == again
    assert first.key != other.key
