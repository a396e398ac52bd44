"""Real sweeps with DVC, over a pipeline of one small stage."""

import re
from pathlib import Path

import pytest

from scripts.sweep import Experiment, ranked
from tests.pipeline import Repository

TRAIN = """
import json, pathlib, sys
from ruamel.yaml import YAML
params = YAML(typ="safe").load(pathlib.Path("params.yaml"))["finetune"]
lr, epochs = params["lr"], params["epochs"]
if lr < 0:
    sys.exit("error: the learning rate is negative")
loss = lr + epochs
pathlib.Path("metrics").mkdir(exist_ok=True)
results = {"val_loss": loss, "score": {"mean": loss}, "by": "judge"}
pathlib.Path("metrics/finetune.json").write_text(json.dumps(results))
"""
PIPELINE = """
stages:
  finetune:
    cmd: python train.py
    deps: [train.py]
    params: [finetune]
    metrics: [metrics/finetune.json: {cache: false}]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, int, str]:
    """A repository after a sweep, and the exit status and output of the sweep."""
    repository = Repository(tmp_path_factory.mktemp("sweep"))
    (repository.directory / "train.py").write_text(TRAIN)
    (repository.directory / "dvc.yaml").write_text(PIPELINE)
    params = repository.directory / "params.yaml"
    params.write_text("finetune: {lr: 0.5, epochs: 1}\n")
    repository.start()
    repository.call("dvc", "repro", "--quiet")
    repository.commit()
    params.write_text("finetune: {lr: 0.5, epochs: 2}\n")  # is not committed
    grid = "finetune.lr=0.5,-1,0.00005"
    process = repository.module("scripts.sweep", grid, "--name", "rates")
    return repository, process.returncode, process.stdout


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines() if re.match(r"\d+ ", line)]


def test_the_table_is_ranked_and_names_what_has_no_result(swept):
    _, status, output = swept
    assert "lowest finetune/val_loss first" in output
    assert rows(output) == [
        ["1", "rates-3", "5e-05", "2.00005"],
        ["2", "rates-1", "0.5", "2.5"],
    ]
    assert "rates-2: failed; see: dvc queue logs rates-2 (finetune.lr=-1)" in output
    assert "dvc exp apply rates-3" in output
    assert status == 1


def test_the_log_of_a_failed_experiment_has_the_reason(swept):
    repository, _, _ = swept
    assert "the learning rate is negative" in repository.call("dvc", "queue", "logs", "rates-2")


def test_the_workspace_stays_as_it_was(swept):
    repository, _, _ = swept
    assert repository.json("metrics/finetune.json")["val_loss"] == 1.5
    assert repository.call("git", "diff", "--name-only").split() == ["params.yaml"]


def test_a_sweep_is_shown_again_by_another_metric(swept):
    repository, _, _ = swept
    again = repository.module("scripts.sweep", "--name", "rates", "--metric", "finetune/score.mean")
    assert "highest finetune/score.mean first" in again.stdout
    assert [row[1] for row in rows(again.stdout)] == ["rates-1", "rates-3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the parameters to vary"),
        (["finetune.lr"], "not KEY=VALUE: finetune.lr"),
        (["finetune.lr=1", "--metric", "finetune/los"], "no metric finetune/los. The metrics are:"),
        (["finetune.lr=1", "--metric", "finetune/by"], "no metric finetune/by"),
        (["finetune.lr=1", "--name", "rates"], "Choose another name"),
        (["--name", "rate"], "no experiment of the sweep rate"),
        (["finetune.rate=1,2"], "Key 'rate' is not in struct"),
    ],
)
def test_invalid_arguments_are_rejected(swept, arguments, message):
    repository, _, _ = swept
    process = repository.module("scripts.sweep", *arguments)
    assert message in process.stderr
    assert process.returncode
    assert "Queued" not in process.stdout


def test_nan_ranks_last():
    losses = {"a": float("nan"), "b": 2.0, "c": 1}
    experiments = [Experiment(name, "success", {}, {"m": loss}) for name, loss in losses.items()]
    # For a failed experiment, DVC reports the metrics of its commit.
    experiments.append(Experiment("d", "failed", {}, {"m": 0.0}))
    assert [e.name for e in ranked(experiments, "m", highest=False)] == ["c", "b", "a"]
    assert [e.name for e in ranked(experiments, "m", highest=True)] == ["b", "c", "a"]


def test_a_repository_needs_a_commit(tmp_path: Path):
    repository = Repository(tmp_path)
    repository.start()
    process = repository.module("scripts.sweep", "finetune.lr=1,2")
    assert process.returncode
    assert "commit" in process.stderr
