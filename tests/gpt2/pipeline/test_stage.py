import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

import gpt2
from gpt2.pipeline.stage import STAGES

REPOSITORY = Path(gpt2.__file__).parents[2]
WITH_MODEL = ("pretrain", "finetune", "generate_responses")
HEAVY = {"torch", "mlflow", "pandas", "matplotlib", "transformers"}
STAGE = """
import logging, time, sys
from importlib import import_module
from pathlib import Path
import stages
from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.pipeline.stage import running

class Schema(Params):
    lr: float

with running("llama3-eval", Path("params.yaml"), ["finetune"]) as run:
    params = run.load(Schema, "finetune")
    logging.getLogger("gpt2.training.trainer").info("step 1")
    logging.getLogger("gpt2.training.trainer").warning("slow")
    logging.getLogger("peft").info("chatter")
    try:
        exec(sys.argv[1])
    finally:
        print("in order", flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("finetune: {lr: 0.5}\n")
    return tmp_path


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """Children of tests that run in the background would ignore Ctrl-C."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def start(place: Path, body: str, **settings: str) -> subprocess.Popen[str]:
    environment = {"MLFLOW_TRACKING_URI": "off", **settings, "PYTHONPATH": str(REPOSITORY)}
    inherited = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, body],
        cwd=place,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stage_that_succeeds(place: Path) -> None:
    body = "run.metrics({'mean': params.lr, 'trusted': True, 'by': {'name': 3, 'judge': 'x'}})"
    process = start(place, body)
    out, err = process.communicate()
    lines = out.splitlines()
    assert lines[:-1] == ["llama3-eval: started", "step 1", "warning: slow", "in order"]
    assert re.fullmatch(r"llama3-eval: done in \d+\.\d s", lines[-1])
    assert (err, process.returncode) == ("", 0)
    speed = json.loads((place / "data" / "runs" / "speed" / "llama3_eval.json").read_text())
    assert speed["wall_seconds"] >= 0
    metrics = json.loads((place / "metrics" / "llama3_eval.json").read_text())
    assert metrics == {"mean": 0.5, "trusted": True, "by": {"name": 3, "judge": "x"}}


def test_numbers_reach_the_store_at_the_root_not_in_the_copy(place: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    root = tmp_path / "root"
    root.mkdir()
    (place / "params.yaml").write_text("profile: tiny\nfinetune: {lr: 0.5}\njudge: {seed: 1}\n")
    (place / "metrics").mkdir()
    for module in ("pretrain", "download_gpt2_weights", "report"):
        (place / "metrics" / f"{module}.json").write_text('{"loss": 2.5, "size": "none"}')
    (place / "metrics" / "finetune.json").write_text("half a fi")
    body = "run.metrics({'mean': 0.25, 'trusted': True, 'by': {'name': 3, 'judge': 'x'}})"
    settings = {"DVC_ROOT": str(root), "DVC_EXP_NAME": "spicy-llama", "MLFLOW_TRACKING_URI": ""}
    process = start(place, body, **settings)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), out

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
    stage, pipeline = sorted(runs, key=lambda run: run.data.tags["stage"])
    assert stage.info.run_name == "llama3-eval · tiny"
    assert stage.data.params == {"finetune.lr": "0.5"}
    metrics = stage.data.metrics
    assert metrics.pop("wall_seconds") >= 0
    assert metrics == {"mean": 0.25, "trusted": 1.0, "by.name": 3.0}
    artifacts = client.list_artifacts(stage.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["llama3_eval.json"]
    assert not (place / "mlflow.db").exists()

    assert pipeline.info.run_name == "tiny · spicy-llama"
    assert pipeline.data.params == {"profile": "tiny", "finetune.lr": "0.5", "judge.seed": "1"}
    # Also results of earlier stages, which DVC may have restored; later ones may be stale.
    whole = pipeline.data.metrics
    assert {key: whole[key] for key in whole if not key.startswith("llama3-eval")} == {
        "pretrain/loss": 2.5,
        "download-gpt2-weights/loss": 2.5,
    }
    assert whole["llama3-eval/mean"] == 0.25


@pytest.mark.parametrize(
    ("params", "body", "message"),
    [
        ("finetune: {lr: 0.5}", "raise UserError('a.jsonl: empty')", "error: a.jsonl: empty\n"),
        ("finetune: {lr: '6e-4'}", "", "params.yaml: finetune.lr: Input should be a valid number"),
        ("finetune: {lr: 0.5, x: 1}", "", "params.yaml: finetune.x: unknown key"),
        ("pretrain: {}", "", "error: params.yaml: section 'finetune' is missing"),
    ],
)
def test_an_error_that_the_user_can_fix(place: Path, params: str, body: str, message: str) -> None:
    (place / "params.yaml").write_text(params)
    process = start(place, body)
    out, err = process.communicate()
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert process.returncode == 1
    assert "done" not in out
    assert not (place / "metrics").exists()


def test_ambiguous_scalars_are_noted_in_the_sections_of_the_stage(place: Path) -> None:
    (place / "params.yaml").write_text("finetune: {lr: 1_0}\njudge: {seed: 017, cached: yes}\n")
    out, _ = start(place, "pass").communicate()
    assert re.findall("^warning: .* is read as .*", out, re.MULTILINE) == [
        "warning: params.yaml: finetune.lr: 1_0 is read as 10, but YAML 1.2 has no _ in numbers. "
        "Write 10"
    ]


def test_a_bug_keeps_its_traceback(place: Path) -> None:
    process = start(place, "1 / 0")
    _, err = process.communicate()
    assert "ZeroDivisionError" in err
    assert process.returncode == 1


def wait_until_it_runs(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "warning: slow\n":
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_run_at_the_same_time_is_refused_and_a_signal_ends_the_first_in_order(
    place: Path, heeding_ctrl_c: None, number: int
) -> None:
    first = start(place, "time.sleep(60)")
    wait_until_it_runs(first)
    second = start(place, "pass")
    _, err = second.communicate()
    assert f"llama3-eval.lock: in use by process {first.pid}" in err
    assert second.returncode == 1
    first.send_signal(number)
    out, err = first.communicate()
    assert out == "in order\n"
    assert err == ""
    assert first.returncode == 128 + number
    third = start(place, "pass")
    third.communicate()
    assert third.returncode == 0


def test_signals_that_a_shell_ignores_stay_ignored(place: Path) -> None:
    body = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, flush=True)"
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = start(place, body)
    signal.signal(signal.SIGINT, previous)
    out, _ = process.communicate()
    assert "True\nin order\n" in out


def test_experiments_in_copies_run_at_the_same_time(tmp_path: Path) -> None:
    processes = []
    for name in ("copy1", "copy2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.yaml").write_text("finetune: {lr: 0.5}\n")
        processes.append(start(tmp_path / name, "time.sleep(60)", DVC_ROOT=str(tmp_path)))
        wait_until_it_runs(processes[-1])
    for process in processes:
        process.terminate()
        process.communicate()
        assert process.returncode == 143


def test_stages_that_run_no_model_import_nothing_heavy() -> None:
    without = [stage for stage in STAGES if stage not in WITH_MODEL]
    modules = ", ".join(f"stages.{stage}" for stage in without)
    process = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print({HEAVY!r} & set(sys.modules))"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "set()\n"


@pytest.mark.parametrize("module", STAGES)
def test_the_help_of_a_stage_has_examples_with_its_own_name(module: str) -> None:
    command = import_module(f"stages.{module}").main
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert f"  dvc repro {module.replace('_', '-')} " in result.output
