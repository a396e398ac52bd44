"""A session of comparing runs: what docs/comparing.md says, typed on the smoke profile.

Whatever DVC and MLflow show of an experiment must be what git has of it, in its ``metrics/*.json``.
"""

import csv
import io
import json
from pathlib import PurePosixPath
from typing import Any

import pytest

from gpt2.tracking.context import flatten
from tests import yaml12
from tests.documents import DOCS, blocks, commands
from tests.pipeline import Pipeline, started

DOCUMENT = DOCS / "comparing.md"
ELSEWHERE = (". .venv/bin/activate", "make ui", "python -m scripts.sweep")
"""Commands with tests of their own."""
RUN = [line for line in commands(DOCUMENT) if not line.startswith(ELSEWHERE)]
EXPERIMENTS = ("gentle", "bold", "other-answers")
PLOTS = ["plots/pretrain.csv", "plots/finetune.csv"]
PLOTS += ["plots/generate_responses.csv", "plots/llama3_eval_scores.csv"]


class Session:
    """The document's commands, run in their order."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.outputs = {line: pipeline.call("sh", "-c", line) for line in RUN}
        shown = json.loads(pipeline.call("dvc", "exp", "show", "--json"))
        self.shown = {entry["name"]: entry["revs"][0] for entry in shown[1]["experiments"]}
        self.shown["HEAD"] = shown[1]

    def output(self, beginning: str) -> str:
        [text] = [text for line, text in self.outputs.items() if line.startswith(beginning)]
        return text

    def file(self, revision: str, name: str) -> str:
        """A file of an experiment, from git."""
        commit = "HEAD" if revision == "HEAD" else self.shown[revision]["rev"]
        return self.pipeline.call("git", "show", f"{commit}:{name}")

    def metrics(self, revision: str) -> dict[str, Any]:
        """All metrics of an experiment by file."""
        listed = self.pipeline.call("git", "ls-tree", "--name-only", "HEAD", "metrics/")
        return {name: json.loads(self.file(revision, name)) for name in listed.split()}

    def metric(self, revision: str, file: str, key: str) -> float:
        return float(flatten(self.metrics(revision)[f"metrics/{file}.json"])[key])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def session(pipeline: Pipeline) -> Session:
    return Session(pipeline)


def test_only_what_depends_on_a_change_runs(session):
    judging = ["llama3-eval", "report"]
    # A copy has no links to files of one's own until they are made.
    assert started(session.output("dvc exp run --temp --name other")) == ["own-files", *judging]
    assert started(session.output("dvc exp run --temp --name bold")) == [
        "own-files",
        "finetune",
        "generate-responses",
        *judging,
    ]


def test_the_session_leaves_the_workspace_as_it_was(session):
    assert session.pipeline.call("git", "status", "--porcelain", "--untracked-files=no") == ""
    assert "up to date" in session.pipeline.call("dvc", "status")


@pytest.mark.parametrize("name", ["HEAD", *EXPERIMENTS])
def test_dvc_shows_the_figures_of_the_metrics_files(session, name):
    data = session.shown[name]["data"]
    assert {path: shown["data"] for path, shown in data["metrics"].items()} == session.metrics(name)
    params = yaml12.loads(session.file(name, "params.yaml"))
    assert data["params"]["params.yaml"]["data"] == params


@pytest.mark.parametrize("name", ["HEAD", *EXPERIMENTS])
def test_mlflow_shows_the_figures_of_the_metrics_files(session, name):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{session.pipeline.directory / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'pipeline'")
    named = {run.info.run_name: run for run in runs}
    first = min(runs, key=lambda run: run.info.start_time)
    run = first if name == "HEAD" else named[f"smoke · {name}"]
    assert run.info.status == "FINISHED"
    params = flatten(yaml12.loads(session.file(name, "params.yaml")))
    assert run.data.params == {key: str(value) for key, value in params.items()}
    written = {
        f"{PurePosixPath(path).stem.replace('_', '-')}/{key}": float(value)
        for path, content in session.metrics(name).items()
        for key, value in flatten(content).items()
        if isinstance(value, int | float)
    }
    assert {key: run.data.metrics.get(key) for key in written} == written


def test_the_table_has_what_differs_and_nothing_else(session):
    lines = session.output("dvc exp show").splitlines()
    header = next(line for line in lines if "Experiment" in line)
    assert {"finetune.lr", "llama3_eval.seed", "metrics/finetune.json:val_loss"} < {*header.split()}
    for unwanted in ("data/", "plots/", "src/", "params.yaml", "pretrain", "Created", "documents"):
        assert unwanted not in header
    rows = {name: next(line for line in lines if f"[{name}]" in line) for name in EXPERIMENTS}
    assert f"{session.metric('bold', 'finetune', 'val_loss'):.5g}" in rows["bold"]


def test_the_differences_of_two_experiments(session):
    params = session.output("dvc params diff").splitlines()
    assert params[1].split() == ["params.yaml", "finetune.lr", "0.001", "0.004"]
    rows = [line.split() for line in session.output("dvc metrics diff gentle").splitlines()]
    assert rows[0] == ["Path", "Metric", "gentle", "bold", "Change"]
    [row] = [row for row in rows if row[1] == "val_loss"]
    losses = [session.metric(name, "finetune", "val_loss") for name in ("gentle", "bold")]
    shown = [*losses, losses[1] - losses[0]]
    assert [float(figure) for figure in row[2:]] == [round(value, 5) for value in shown]


def test_an_applied_experiment_is_the_workspace(session):
    [applied] = [text for line, text in session.outputs.items() if line == "dvc metrics diff"]
    [row] = [row for row in map(str.split, applied.splitlines()) if row[1] == "val_loss"]
    assert float(row[3]) == round(session.metric("bold", "finetune", "val_loss"), 5)
    branch = session.pipeline.call("git", "show", "bold-rate:metrics/finetune.json")
    assert branch == session.file("bold", "metrics/finetune.json")


def test_plots_lie_over_each_other(session):
    assert "index.html" in session.output("dvc plots diff")
    command = ("dvc", "plots", "diff", "HEAD", "gentle", "bold", "--json")
    plots = json.loads(session.pipeline.call(*command))["data"]
    assert list(plots) == PLOTS
    for name, [plot] in plots.items():
        assert plot["revisions"] == ["HEAD", "gentle", "bold"]
        for revision in plot["revisions"]:
            shown = [row for row in plot["content"]["data"]["values"] if row["rev"] == revision]
            written = list(csv.DictReader(io.StringIO(session.file(revision, name))))
            assert [{key: row[key] for key in written[0]} for row in shown] == written
        assert "<DVC_METRIC" not in json.dumps(plot)
    # A value that is missing is an empty text to DVC, and Vega would draw it as 0.
    [plot] = plots["plots/finetune.csv"]
    assert {"filter": "datum.value !== ''"} in plot["content"]["transform"]


def test_mlflow_filters_and_sorts(session, monkeypatch, capsys):
    import mlflow

    monkeypatch.chdir(session.pipeline.directory)
    [code] = blocks(DOCUMENT, "python")
    before = mlflow.get_tracking_uri()
    scope: dict[str, Any] = {}
    try:
        exec(code, scope)
    finally:
        mlflow.set_tracking_uri(before)
    shown = capsys.readouterr().out
    assert all(f"smoke · {name}" in shown for name in EXPERIMENTS)
    assert scope["runs"]["metrics.finetune/val_loss"].is_monotonic_increasing
    [query] = blocks(DOCUMENT, "text")
    uri = f"sqlite:///{session.pipeline.directory / 'mlflow.db'}"
    client = mlflow.tracking.MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    losses = {name: session.metric(name, "finetune", "val_loss") for name in EXPERIMENTS}
    least, most = min(losses.values()), max(losses.values())
    found = client.search_runs(
        [experiment.experiment_id], query.strip().replace("< 3", f"< {(least + most) / 2}")
    )
    names = {run.info.run_name for run in found}
    for name, loss in losses.items():
        assert (f"smoke · {name}" in names) == (loss < (least + most) / 2)


def test_a_sweep_as_documented_is_one_that_the_script_takes():
    from scripts.sweep import main

    for line in commands(DOCUMENT):
        if line.startswith("python -m scripts.sweep"):
            words = line.split()[3:]
            main.make_context("sweep", words)
            keys = {word.partition("=")[0] for word in words if "=" in word}
            profile = flatten(yaml12.loads((DOCS.parent / "params.yaml").read_text()))
            assert keys <= profile.keys()
