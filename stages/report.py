"""Stage ``report``: an HTML page about the run, compared with the previous one."""

from datetime import UTC, datetime
from pathlib import Path

import click

from gpt2.pipeline.stage import EXAMPLES, METRICS, SPEED, WITH_RESULTS, as_program, running
from gpt2.report.inputs import read
from gpt2.report.machine import this_machine
from gpt2.report.write import write_report

PLOTS = Path("plots")


@click.command(epilog=EXAMPLES.format("report"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--responses-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judgements-dir", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default="reports/report.html")
def main(params_path: Path, responses_dir: Path, judgements_dir: Path, output: Path) -> None:
    """Write an HTML page about the run and what changed since the previous one."""
    with running("report", params_path, sections=[]) as run:
        inputs = read(
            WITH_RESULTS, params_path, METRICS, PLOTS, SPEED, responses_dir, judgements_dir
        )
        machine = this_machine(Path())
        write_report(inputs, machine, datetime.now(UTC), run.runs / "reports", output)
        run.tracker.artifact(output)
    click.echo(output)


if __name__ == "__main__":
    as_program(main)
