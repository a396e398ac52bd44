"""Stage ``report``: one page on the run, held against the previous one."""

from datetime import UTC, datetime
from pathlib import Path

import click

from gpt2.core import files
from gpt2.core.locks import locked
from gpt2.pipeline.stage import EXAMPLES, METRICS, SPEED, WITH_RESULTS, as_program, running
from gpt2.report.answers import item_scores
from gpt2.report.comparison import compare
from gpt2.report.inputs import read
from gpt2.report.machine import this_machine
from gpt2.report.page import render
from gpt2.report.snapshots import Snapshot, previous, results_digest, save
from gpt2.tracking.context import flatten

PLOTS = Path("plots")


@click.command(epilog=EXAMPLES.format("report"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--responses-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judgements-dir", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default="reports/report.html")
def main(params_path: Path, responses_dir: Path, judgements_dir: Path, output: Path) -> None:
    """Write one page on the run, and on what changed since the previous one."""
    with running("report", params_path, sections=[]) as run:
        inputs = read(
            WITH_RESULTS, params_path, METRICS, PLOTS, SPEED, responses_dir, judgements_dir
        )
        machine = this_machine(Path())
        now = datetime.now(UTC)
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
        snapshots = run.runs / "reports"
        with locked(run.runs / "reports.lock"):
            before = previous(snapshots, snapshot.results)
            against = compare(before, snapshot) if before else None
            page = render(inputs, scores, snapshot.params, against, machine, now.astimezone())
            files.write_text(output, page)
            save(snapshots, snapshot)
        run.tracker.artifact(output)
    click.echo(output)


if __name__ == "__main__":
    as_program(main)
