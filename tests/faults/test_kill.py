"""Processes that are killed, stopped, started twice or side by side: the results are the same."""

import json
import os
import platform
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libfaketime
import psutil
import pytest

from gpt2.core import files
from gpt2.core.locks import locked
from scripts.deps import ROOT
from tests import yaml12
from tests.pipeline import ENVIRONMENT, WITH_RESULTS, Pipeline, Repository, started

STEPS = 400
LONG = {
    "pretrain.steps": STEPS,
    "pretrain.eval_interval": 100,
    "pretrain.checkpoint_interval": 1000,
}
"""Long enough to be stopped in the middle, and no checkpoint but that of the stop."""
ONE_STAGE = f"""
stages:
  pretrain:
    cmd: env PYTHONPATH={ROOT}:{ROOT / "src"} python stage.py
    outs: [model]
"""
WAITING_STAGE = """
import time
from pathlib import Path
from gpt2.pipeline.stage import running

with running("pretrain", Path("params.yaml"), []):
    while not Path("go").exists():
        time.sleep(0.01)
    Path("model").write_text("whole")
"""

Process = subprocess.Popen[str]


@pytest.fixture(scope="module", autouse=True)
def heeding_ctrl_c() -> Iterator[None]:
    """Where the tests run in the background, all that they start would ignore it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def results(directory: Path) -> dict[str, str]:
    """sha256 of all that the stages write under a final name; the rest is work in progress."""
    found = {}
    for top in ("data", "metrics", "plots"):
        for path in sorted((directory / top).rglob("*")):
            name = path.relative_to(directory)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and name.parts[:2] != ("data", "runs") and not hidden:
                found[name.as_posix()] = files.sha256(path)
    return found


def dvc_lock(directory: Path) -> dict[str, object]:
    stages: dict[str, object] = yaml12.loads((directory / "dvc.lock").read_text())["stages"]
    return stages


def start(directory: Path, *command: str, **environment: str) -> Process:
    return subprocess.Popen(
        command,
        cwd=directory,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_stage(directory: Path, stage: str, **environment: str) -> Process:
    """A stage as DVC starts it, without DVC."""
    command = yaml12.loads((directory / "dvc.yaml").read_text())["stages"][stage]["cmd"]
    command = command.replace("${pretrain.initial_weights}", "none")
    return start(directory, *shlex.split(command), **environment)


def repro(directory: Path) -> list[str]:
    """The stages that ran; without MLflow, which costs half of their time."""
    process = start(directory, "dvc", "repro", MLFLOW_TRACKING_URI="off")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return started(said)


def wait_for(process: Process, text: str) -> str:
    """Read what a process says up to the line with ``text``."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was not said:\n{said}")


def process_of(dvc: Process, word: str) -> psutil.Process:
    """The stage below ``dvc``; not the shell between them, if there is one."""
    below = psutil.Process(dvc.pid).children(recursive=True)
    [found] = [process for process in below if word in process.cmdline()]
    return found


# --- kill -9 ---


@pytest.fixture(scope="module")
def victim(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    directory = tmp_path_factory.mktemp("kill") / "victim"
    shutil.copytree(pipeline.directory, directory, symlinks=True)
    return Repository(directory)


def forget(repository: Repository, stage: str) -> None:
    """Make DVC take a stage for one that has never run."""
    path = repository.directory / "dvc.lock"
    lock = yaml12.loads(path.read_text())
    del lock["stages"][stage]
    path.write_text(yaml12.dumps(lock))
    shutil.rmtree(repository.directory / ".dvc" / "cache" / "runs", ignore_errors=True)


def kill(repository: Repository, stage: str, whom: str, delay: float) -> bool:
    """Run a stage and kill it, its dvc, or both, so long after its start; False: it was over."""
    process = start(repository.directory, "dvc", "repro", "-s", stage)
    wait_for(process, f"{stage}: started")
    at_work = process_of(process, f"stages.{stage.replace('-', '_')}")
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        killed = at_work.is_running()
        if whom != "stage":
            process.kill()
        if whom != "dvc":
            with suppress(psutil.NoSuchProcess):
                at_work.kill()
    else:
        killed = False
    process.communicate()  # until a stage that lives on has ended, too
    return killed


@pytest.mark.faults
@pytest.mark.parametrize("whom", ["stage", "dvc", "both"])
@pytest.mark.parametrize("stage", WITH_RESULTS)
def test_kill_9_and_again_ends_as_an_undisturbed_run(
    pipeline: Pipeline, victim: Repository, stage: str, whom: str
) -> None:
    undisturbed = results(pipeline.directory)
    module = stage.replace("-", "_")
    seconds = victim.json(f"data/runs/speed/{module}.json")["wall_seconds"]
    delay = random.Random(f"{stage} {whom}").random() * seconds
    forget(victim, stage)
    while not kill(victim, stage, whom, delay):
        delay /= 2
        forget(victim, stage)

    left = results(victim.directory)
    assert left.items() <= undisturbed.items()
    for name in left:
        if name.endswith(files.MANIFEST):
            files.read_manifest((victim.directory / name).parent)
    repro(victim.directory)
    assert results(victim.directory) == undisturbed
    assert dvc_lock(victim.directory) == dvc_lock(pipeline.directory)
    rest = [path for path in (victim.directory / "data").rglob(".*") if path.is_dir()]
    assert rest == [], "half-written directories pile up"
    assert not list(victim.directory.glob("data/runs/*/step-*"))


# --- Ctrl-C and SIGTERM ---


@pytest.fixture(scope="module")
def undisturbed(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a longer pretraining, which has not run yet."""
    directory = tmp_path_factory.mktemp("stop") / "undisturbed"
    shutil.copytree(pipeline.directory, directory, symlinks=True)
    shutil.rmtree(directory / "data" / "models" / "pretrained")
    set_params(directory, **LONG)
    return directory


@pytest.fixture(scope="module")
def stopped(undisturbed: Path) -> Path:
    """Such a copy whose pretraining was stopped by Ctrl-C."""
    directory = undisturbed.with_name("stopped")
    shutil.copytree(undisturbed, directory, symlinks=True)
    (directory / "mlflow.db").unlink()
    process = start_stage(directory, "pretrain")
    wait_for(process, "pretrain: step 0: val_loss")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, said
    return directory


def set_params(directory: Path, **values: object) -> None:
    path = directory / "params.yaml"
    params = yaml12.loads(path.read_text())
    for key, value in values.items():
        section, name = key.split(".")
        params[section][name] = value
    path.write_text(yaml12.dumps(params))


def checkpoint_step(directory: Path) -> int:
    [state] = directory.glob("data/runs/pretrain-*/step-*/state.json")
    step: int = json.loads(state.read_text())["step"]
    return step


def pretraining_runs(directory: Path) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(experiments, "tags.stage = 'pretrain'")]


@pytest.mark.faults
def test_a_stopped_training_goes_on_and_ends_as_an_undisturbed_one(
    undisturbed: Path, stopped: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    shutil.copytree(stopped, place, symlinks=True)
    step = checkpoint_step(place)
    assert 0 < step < STEPS
    assert not (place / "data" / "models" / "pretrained").exists()
    assert pretraining_runs(place) == ["KILLED"]

    again = start_stage(place, "pretrain")
    said = wait_for(again, f"pretrain: step {100 * (step // 100 + 1)}: val_loss")
    assert f"resuming from the checkpoint at step {step}\n" in said
    again.terminate()
    said, _ = again.communicate()
    assert again.returncode == 128 + signal.SIGTERM, said
    assert step < checkpoint_step(place) < STEPS

    reference = start_stage(undisturbed, "pretrain")
    last = start_stage(place, "pretrain")
    for process in (last, reference):
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert results(place) == results(undisturbed)
    # The last start went on with the run of the one before; the copy's is of another place.
    assert sorted(pretraining_runs(place)) == ["FINISHED", "KILLED"]
    assert not list(place.glob("data/runs/pretrain-*/step-*"))


@pytest.mark.faults
def test_a_stale_checkpoint_is_not_used_and_what_differs_is_named(
    stopped: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    shutil.copytree(stopped, place, symlinks=True)
    step = checkpoint_step(place)
    set_params(place, **{"pretrain.lr": 0.003, "tokenize.seed": 7})
    tokenize = start_stage(place, "tokenize", MLFLOW_TRACKING_URI="off")
    said, _ = tokenize.communicate()
    assert tokenize.returncode == 0, said
    with (place / "stages" / "pretrain.py").open("a") as code:
        code.write("# other code\n")
    process = start_stage(place, "pretrain", MLFLOW_TRACKING_URI="off")
    said = wait_for(process, "pretrain: step 0: val_loss")
    process.kill()
    process.communicate()
    (line,) = re.findall(r"starting afresh: .*", said)
    assert line.startswith(f"starting afresh: the checkpoint at step {step} has another ")
    assert {"code", "params.lr", "tokens"} <= set(line.rpartition(" another ")[2].split(", "))


# --- two at once ---


def test_a_stage_that_outlives_its_dvc_stays_the_only_writer(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.start()
    (tmp_path / "dvc.yaml").write_text(ONE_STAGE)
    (tmp_path / "stage.py").write_text(WAITING_STAGE)
    (tmp_path / "params.yaml").write_text("{}\n")
    dvc = start(tmp_path, "dvc", "repro", MLFLOW_TRACKING_URI="off")
    wait_for(dvc, "pretrain: started")
    orphan = process_of(dvc, "stage.py")
    dvc.kill()
    dvc.wait()
    second = repository.run("dvc", "repro")
    assert second.returncode != 0
    assert f"pretrain.lock: in use by process {orphan.pid}" in second.stdout + second.stderr
    assert orphan.is_running()
    assert not (tmp_path / "model").exists()
    (tmp_path / "go").touch()
    dvc.communicate()
    with locked(tmp_path / "data" / "runs" / "pretrain.lock"):
        assert (tmp_path / "model").read_text() == "whole"
    assert repro(tmp_path) == ["pretrain"]


@pytest.mark.faults
def test_experiments_at_once_share_a_repository_and_nothing_else(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """In copies of the work tree, as `dvc exp run --temp` runs them; two of the three are equal."""
    copies = [tmp_path / name for name in ("first", "second", "other")]
    for copy in copies:
        shutil.copytree(pipeline.directory, copy, symlinks=True)
        shutil.rmtree(copy / "data" / "models")
    set_params(copies[-1], **{"pretrain.lr": 0.003})
    root = tmp_path / "root"
    root.mkdir()
    processes = [start_stage(copy, "pretrain", DVC_ROOT=str(root)) for copy in copies]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    model = "data/models/pretrained/model.safetensors"
    expected = files.sha256(pipeline.directory / model)
    assert [files.sha256(copy / model) == expected for copy in copies] == [True, True, False]
    for copy in copies[:2]:
        assert (copy / "metrics" / "pretrain.json").read_bytes() == (
            pipeline.directory / "metrics" / "pretrain.json"
        ).read_bytes()
    assert pretraining_runs(root) == ["FINISHED"] * 3


@pytest.mark.faults
def test_two_checkouts_at_once_end_with_the_same_bits(pipeline: Pipeline, tmp_path: Path) -> None:
    checkouts = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        checkouts.append(Pipeline(tmp_path / name))
    processes = [start(checkout.directory, "dvc", "repro") for checkout in checkouts]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    here, there = (checkout.directory for checkout in checkouts)
    assert results(here) == results(there) == results(pipeline.directory)
    assert dvc_lock(here) == dvc_lock(there)


# --- the clock ---


def loss_steps(directory: Path) -> list[int]:
    """The steps of the longest loss curve that MLflow has of a pretraining that finished."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = "tags.stage = 'pretrain' AND attributes.status = 'FINISHED'"
    runs = client.search_runs(experiments, query)
    curves = [client.get_metric_history(run.info.run_id, "train/loss") for run in runs]
    return sorted(point.step for point in max(curves, key=len))  # it gives them by time


@pytest.mark.faults
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the clock's library is not"
)
def test_a_clock_that_jumps_while_a_stage_trains_changes_nothing(
    undisturbed: Path, tmp_path: Path
) -> None:
    place, clock = tmp_path / "place", tmp_path / "clock"
    shutil.copytree(undisturbed, place, symlinks=True)
    shutil.rmtree(place / "data" / "models" / "pretrained", ignore_errors=True)
    (place / "mlflow.db").unlink()
    [library] = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    shifted = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as a real clock that is set
    }
    clock.write_text("-3d")
    shown = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**ENVIRONMENT, **shifted},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.time() - float(shown.stdout) == pytest.approx(3 * 24 * 3600, abs=60)

    process = start_stage(place, "pretrain", **shifted)
    wait_for(process, "pretrain: step 0: val_loss")
    clock.write_text("+2d")
    wait_for(process, "pretrain: step 100: val_loss")
    clock.write_text("-1d")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, said
    step = checkpoint_step(place)

    clock.write_text("-5d")
    again = start_stage(place, "pretrain", **shifted)
    reference = start_stage(undisturbed, "pretrain")
    said = wait_for(again, "pretrain: step 300: val_loss")
    assert f"resuming from the checkpoint at step {step}\n" in said
    clock.write_text("+1d")
    for process in (again, reference):
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert results(place) == results(undisturbed)
    assert loss_steps(place) == loss_steps(undisturbed)


def test_the_times_of_files_decide_nothing(pipeline: Pipeline) -> None:
    for index, name in enumerate(results(pipeline.directory)):
        os.utime(pipeline.directory / name, (0, 0) if index % 2 else (2e9, 2e9))
    assert pipeline.repro() == []
