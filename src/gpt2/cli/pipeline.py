"""Commands about the pipeline: ``validate`` its parameters, ``doctor`` the machine it runs on."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.core.errors import UserError

if TYPE_CHECKING:
    from gpt2.pipeline.plan import Estimate

PARAMS = "params.yaml"


def _parameter_file(name: str) -> Path:
    """The file ``name``, or else the profile of this name.

    Raises:
        UserError: neither a parameter file nor a pipeline is here.
    """
    profile = Path("profiles", f"{name}.yaml")
    path = profile if profile.is_file() and not Path(name).is_file() else Path(name)
    if name == PARAMS and not path.is_file() and not Path("dvc.yaml").is_file():
        raise UserError(
            f"no {PARAMS} here. Run this command in the repository of the pipeline, or name a "
            "parameter file"
        )
    return path


def _parameter_files(
    ctx: click.Context, option: click.Parameter, names: Sequence[str]
) -> Sequence[Path]:
    return [_parameter_file(name) for name in names or [PARAMS]]


@click.command(
    epilog="""\b
Examples:
  gpt2 validate
  gpt2 validate gpt2-124m
  gpt2 validate --brief
  gpt2 validate --no-estimates profiles/*.yaml
"""
)
@click.argument("files", nargs=-1, metavar="[FILE or PROFILE]...", callback=_parameter_files)
@click.option("--estimates/--no-estimates", default=True, help="Estimate what each stage takes.")
@click.option("--brief", is_flag=True, help="Print only the estimated time of all stages together.")
def validate(files: Sequence[Path], estimates: bool, brief: bool) -> None:
    """Check parameter files, and estimate a run.

    Without arguments, the file is params.yaml. All problems of a file are reported at once. The
    estimates of each stage (model parameters, tokens, peak memory and time) are rough and say what
    they are based on. This machine is measured for a second or two; times assume that it does
    nothing else.
    """
    from gpt2.pipeline import schemas
    from gpt2.pipeline.checks.machine import processor
    from gpt2.pipeline.plan import Plan

    problems = []
    for path in files:
        try:
            sections = schemas.read(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if brief:
            total = _total(list(Plan(path, sections).estimates()))
            click.echo(f"all stages of {sections.profile}, if none is up to date: {total}")
            continue
        click.echo(f"{path}: valid, profile {sections.profile}")
        if estimates:
            rows = list(Plan(path, sections).estimates())
            click.echo(f"processor: {processor().finding}")
            click.echo(f"{_estimates(rows)}\nwhole run: {_total(rows)}\n")
    if problems:
        raise UserError("\n".join(problems))


@click.command(
    epilog="""\b
Examples:
  gpt2 doctor
  gpt2 doctor --params gpt2-124m
"""
)
@click.option(
    "--params",
    "path",
    default=PARAMS,
    callback=lambda ctx, option, name: _parameter_file(name),
    help="Parameter file or profile to check the machine for.",
)
def doctor(path: Path) -> None:
    """Check whether this machine can run the pipeline.

    Each problem comes with what to do about it. "absent" marks what is missing but not needed. The
    exit status is 1 if anything that the profile needs does not work.
    """
    from gpt2.pipeline import schemas
    from gpt2.pipeline.checks.check import Check
    from gpt2.pipeline.doctor import examine
    from gpt2.pipeline.needs import needs_of
    from gpt2.pipeline.plan import Plan

    needs, error = None, ""
    try:
        needs = needs_of(Plan(path, schemas.read(path), timed=False))
    except UserError as problem:
        error = str(problem)
    checks = examine(Path(), needs)
    checks.append(Check("parameters", needs is not None, str(path), f"Correct them: {error}"))
    click.echo(_table([(check.name, check.verdict, check.finding) for check in checks]))
    failed = [check for check in checks if not check.works and check.remedy]
    if failed:
        click.echo("\nWhat to do:")
    for check in sorted(failed, key=lambda check: not check.needed):
        click.echo(f"- {check.name} ({check.verdict}): {check.remedy}")
    if any(check.needed for check in failed):
        sys.exit(1)


def _estimates(rows: "Sequence[Estimate]") -> str:
    from gpt2.report.formats import compact, duration, memory

    heading = ("stage", "parameters", "tokens", "memory", "time", "based on")
    cells = [
        (
            row.stage,
            compact(row.parameters),
            compact(row.tokens),
            memory(row.memory and row.memory / 2**20),
            duration(row.seconds),
            row.basis,
        )
        for row in rows
    ]
    return _table([heading, *cells])


def _total(rows: "Sequence[Estimate]") -> str:
    from gpt2.report.formats import duration

    total = sum(row.seconds or 0 for row in rows)
    unknown = [row.stage for row in rows if row.seconds is None]
    without = f", without {', '.join(unknown)}" if unknown else ""
    return f"about {duration(total)}{without}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
