"""Helpers of the tests of tracking: a stage in a process of its own, and the runs in a store."""

import logging
import os
import time
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import gpt2
from gpt2.core import files
from gpt2.tracking.store import EXPERIMENT, own_store
from gpt2.tracking.tracker import track

PYTHONPATH = str(Path(gpt2.__file__).parents[1])
STAGE = """
import sys, time
from pathlib import Path
from gpt2.tracking.tracker import track
stage, root, code = sys.argv[1:]
params = {"profile": "starter", "shared": {"seed": 1}, "one": {"lr": 5e-5}, "two": {"lr": 0.5}}
with track(stage, Path(root), params, [stage], f"{stage}.lr") as tracker:
    exec(code)
"""


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(own_store(root))


def runs_of(root: Path, stage: str | None = None) -> list[Run]:
    """The runs of a store, or of a stage (``pipeline``: parent runs), ordered by start time."""
    client = client_of(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in found if stage in (None, run.data.tags["stage"])]


def parent_of(run: Run) -> str | None:
    parent: str | None = run.data.tags.get("mlflow.parentRunId")
    return parent


def pipeline_of(root: Path, experiment: str) -> Run:
    """The only parent run of an experiment."""
    (run,) = (run for run in runs_of(root, "pipeline") if run.info.run_name == experiment)
    return run


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH, **settings}


def model_directory(path: Path, text: str) -> Path:
    with files.new_directory(path) as new:
        (new / "model.safetensors").write_text(text)
    return path


def assert_training_survives(
    root: Path, caplog: pytest.LogCaptureFixture, seconds: float = 6
) -> None:
    """A stage that logs for a while succeeds, ends soon, and gives one warning."""
    started = time.monotonic()
    done = False
    with caplog.at_level(logging.WARNING, "gpt2"), track("pretrain", root, {"a": 1}) as tracker:
        for step in range(1200):
            tracker.metrics({"loss": 1.0}, step)
        tracker.text("sample", "sample.txt")
        done = True
    assert done
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.tracker")
    assert record.getMessage().startswith("tracking is off: ")
    assert record.getMessage().endswith("Metrics are still in metrics/ and plots/")
    assert time.monotonic() - started < seconds
