"""Run a grid of experiments and print a ranked table of their results.

``python -m scripts.sweep finetune.lr=0.001,0.002 finetune.epochs=1,2``

DVC expands the grid, queues the experiments (`dvc exp run --queue`) and runs them in copies of the
repository.
"""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import stages  # noqa: F401  puts src/ on the path
from gpt2.core.streams import standard_streams
from gpt2.report.comparison import LOWER_IS_BETTER
from gpt2.tracking.context import flatten

WAITING = ("queued", "running")


@dataclass(frozen=True)
class Experiment:
    """An experiment of the repository, as reported by `dvc exp show`."""

    name: str
    state: str
    """``failed``, ``queued`` or ``running``; with any other state, it has results."""
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """Keys are ``<stage>/<metric>``, as in MLflow. A failed experiment has those of its commit."""


def read(entry: Mapping[str, Any]) -> Experiment:
    """Parse an experiment, or the workspace, from the JSON of ``dvc exp show``."""
    revision = entry["revs"][0] if "revs" in entry else entry
    data = revision["data"] or {}
    metrics = {
        f"{Path(file).stem.replace('_', '-')}/{key}": value
        for file, content in (data.get("metrics") or {}).items()
        for key, value in flatten(content.get("data") or {}).items()
    }
    params = (data.get("params") or {}).get("params.yaml", {}).get("data") or {}
    state = (entry.get("executor") or {}).get("state") or ""
    return Experiment(str(entry["name"]), state, flatten(params), metrics)


def experiments_of(experiments: Sequence[Experiment], name: str) -> list[Experiment]:
    """The experiments of the sweep ``name`` (``name-1``, ``name-2``, ...), in this order."""
    numbered = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [(match, e) for e in experiments if (match := numbered.fullmatch(e.name))]
    return [e for _, e in sorted(found, key=lambda pair: int(pair[0][1] or 0))]


def ranked(experiments: Sequence[Experiment], metric: str, highest: bool) -> list[Experiment]:
    """The experiments with a result, best first; NaN comes last."""

    def rank(experiment: Experiment) -> tuple[bool, float]:
        value = float(experiment.metrics[metric])
        return math.isnan(value), -value if highest else value

    done = [e for e in experiments if e.state not in ("failed", *WAITING)]
    return sorted((e for e in done if is_number(e.metrics.get(metric))), key=rank)


def report(
    experiments: Sequence[Experiment], workspace: Experiment, metric: str, highest: bool
) -> Iterator[str]:
    """The ranked table, with the parameters that differ; below it, experiments without a result."""
    first, together = experiments[0], [*experiments, workspace]
    keys = [key for key in first.params if len({repr(e.params.get(key)) for e in together}) > 1]
    best = ranked(experiments, metric, highest)
    rows = [
        [str(place), e.name, *(str(e.params.get(key)) for key in keys), f"{e.metrics[metric]:.6g}"]
        for place, e in enumerate(best, start=1)
    ]
    yield f"{'highest' if highest else 'lowest'} {metric} first"
    yield from _table([["", "experiment", *keys, metric], *rows])
    for e in experiments:
        if e not in best:
            settings = ", ".join(f"{key}={e.params.get(key)}" for key in keys)
            yield f"{_missing_result(e, metric)} ({settings})"
    if best:
        yield f"apply one: dvc exp apply {best[0].name}, or: dvc exp branch {best[0].name} NAME"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _missing_result(experiment: Experiment, metric: str) -> str:
    """Why an experiment has no result, and where to look."""
    name, state = experiment.name, experiment.state
    if state in WAITING:
        return f"{name}: {state}; see: dvc queue status"
    reason = "failed" if state == "failed" else f"no {metric}"
    return f"{name}: {reason}; see: dvc queue logs {name}"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@click.command()
@click.argument("grid", nargs=-1, metavar="KEY=VALUE,VALUE ...")
@click.option("--metric", default="finetune/val_loss", show_default=True, help="Metric to rank by.")
@click.option("--highest/--lowest", default=None, help="Best value; default: by the metric.")
@click.option("-j", "--jobs", default=1, show_default=True, help="Experiments to run in parallel.")
@click.option("--name", help="Name of the sweep; without a grid, show this sweep again.")
def main(grid: tuple[str, ...], metric: str, highest: bool | None, jobs: int, name: str) -> None:
    """Run every combination of the values, and print the experiments ranked by a metric.

    Uncommitted changes of tracked files are part of every experiment. The repository needs at least
    one commit. Experiments that are already in DVC's queue run, too. The exit status is 1 if an
    experiment has no result.

    \b
    Example:
      python -m scripts.sweep finetune.lr=0.001,0.002 finetune.epochs=1,2
      python -m scripts.sweep llama3_eval.seed=1,2,3 --metric llama3-eval/finetuned.mean
    """
    if not (grid or name):
        raise click.UsageError(
            "name the parameters to vary: finetune.lr=0.001,0.002 finetune.epochs=1,2"
        )
    if invalid := [setting for setting in grid if "=" not in setting]:
        raise click.UsageError(f"not KEY=VALUE: {' '.join(invalid)}")
    if highest is None:
        highest = re.split("[./]", metric)[-1] not in LOWER_IS_BETTER
    workspace, baseline, experiments = _show("HEAD")
    if workspace.metrics:
        _check_metric(metric, workspace)
    sweep = name or time.strftime("sweep-%m%d-%H%M%S")
    if grid:
        if experiments_of(experiments, sweep):
            raise click.UsageError(f"a sweep named {sweep} exists. Choose another name")
        _run(grid, sweep, jobs)
        workspace, _, experiments = _show(baseline)
    if not (found := experiments_of(experiments, sweep)):
        raise click.UsageError(f"this commit has no experiment of the sweep {sweep}")
    click.echo()
    for line in report(found, workspace, metric, highest):
        click.echo(line)
    if any(experiment.state in WAITING for experiment in found):
        click.echo(f"show this again: python -m scripts.sweep --name {sweep}")
    sys.exit(len(ranked(found, metric, highest)) < len(found))


def _check_metric(metric: str, workspace: Experiment) -> None:
    """Reject an unknown metric before the experiments run."""
    if not is_number(workspace.metrics.get(metric)):
        known = sorted(key for key, value in workspace.metrics.items() if is_number(value))
        raise click.UsageError(f"no metric {metric}. The metrics are:\n  " + "\n  ".join(known))


def _run(grid: Sequence[str], sweep: str, jobs: int) -> None:
    settings = [word for setting in grid for word in ("--set-param", setting)]
    _call("dvc", "exp", "run", "--queue", "--name", sweep, *settings)
    _call("dvc", "exp", "run", "--run-all", "--jobs", str(jobs))


def _show(revision: str) -> tuple[Experiment, str, list[Experiment]]:
    """The workspace, the commit of ``revision``, and the experiments based on that commit."""
    command = ["dvc", "exp", "show", "--json", "--rev", revision]
    process = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8")
    if process.returncode:
        sys.exit(process.returncode)
    workspace, commit = json.loads(process.stdout)
    found = [read(entry) for entry in commit["experiments"] or []]
    return read({**workspace, "name": "workspace"}), commit["rev"], found


def _call(*command: str) -> None:
    """Run a command in the foreground; if it fails, exit with its status."""
    with subprocess.Popen(command) as process:
        while process.returncode is None:
            # Ctrl-C also reaches dvc, which exits; the queue keeps running.
            with suppress(KeyboardInterrupt):
                process.wait()
    if process.returncode:
        sys.exit(process.returncode)


if __name__ == "__main__":
    with standard_streams(needed=True):
        main()
