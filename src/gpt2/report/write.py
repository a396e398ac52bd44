"""Writes the report: compares a run with the previous one, renders the page, saves a snapshot."""

from datetime import datetime
from pathlib import Path

from gpt2.core import files
from gpt2.core.locks import locked
from gpt2.report.answers import item_scores
from gpt2.report.comparison import compare
from gpt2.report.inputs import Inputs
from gpt2.report.machine import Machine
from gpt2.report.page import render
from gpt2.report.snapshots import Snapshot, previous, results_digest, save
from gpt2.tracking.context import flatten


def write_report(
    inputs: Inputs, machine: Machine, now: datetime, snapshots: Path, output: Path
) -> None:
    """Write the page of a run to ``output``, and its snapshot to the directory ``snapshots``.

    ``now`` is in UTC; the page shows it in local time.
    """
    scores = item_scores(inputs.responses, inputs.judgements)
    snapshot = Snapshot(
        time=now.isoformat(timespec="milliseconds"),
        commit=machine.commit,
        dirty=machine.dirty,
        results=results_digest(inputs.metrics.raw, inputs.judge, scores),
        params=flatten(inputs.params),
        metrics=flatten(inputs.metrics.raw),
        judge=dict(inputs.judge) if inputs.judge is not None else None,
        scores=scores,
    )
    with locked(snapshots.with_suffix(".lock")):
        before = previous(snapshots, snapshot.results)
        against = compare(before, snapshot) if before else None
        page = render(inputs, scores, snapshot.params, against, machine, now.astimezone())
        files.write_text(output, page)
        save(snapshots, snapshot)
