"""A training step while other processes keep the processor busy: ours beside nanoGPT's recipe.

Each situation has sides of its own, started within it: quiet, and with one and two processes that
only count, single-threaded. They are as nice as the benchmark is, so run it at niceness 0. The
goals are meant for two cores.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import click

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, record, take_turns
from benchmarks.training_step import SHAPES, agreement, shapes, started

SHAPE = len(SHAPES["cpu"]) - 1
"""6 layers of 256 with 8,192 entries: its many short parallel regions suffer most."""
GOALS = {1: 1.3, 2: 1.0}
"""How many times faster than nanoGPT's recipe in the same situation, by busy processes."""
SHARES = {1: 0.48}
"""Part of the quiet rate that is to be left of ours."""
LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6): pass
"""
"""A process that outlives nobody: it ends by itself if its parent was killed."""


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="A tiny model, to see that all of it runs.")
def main(rounds: int, quick: bool) -> None:
    """Time training steps beside other processes on this machine."""
    quiet = measure(0, rounds, quick)
    loaded = [with_shares(measure(n, rounds, quick), quiet, SHARES.get(n)) for n in GOALS]
    record("under_load", [quiet, *loaded], quick=quick)


def measure(count: int, rounds: int, quick: bool) -> Row:
    """The row of a situation with ``count`` busy processes."""
    index = 0 if quick else SHAPE
    shape = shapes("cpu", quick)[index]
    with busy(count), started(index, "cpu", quick, ("ours", "nanoGPT")) as sides:
        timings = take_turns(sides, rounds)
        check = agreement(sides)
    beside = ("on a quiet machine", "beside a busy process", f"beside {count} busy processes")
    return Row(
        work=f"training step {beside[min(count, 2)]}, {shape.name}, V={shape.V}",
        amount=shape.steps * shape.B * shape.T,
        unit="tokens",
        sides=timings,
        goals={"nanoGPT": GOALS[count]} if count else {},
        checks=[check],
    )


def with_shares(row: Row, quiet: Row, goal: float | None) -> Row:
    """The row with the part of each side's quiet rate that is left, of ours at least ``goal``."""
    names = {side: f"share of the quiet rate, {side}" for side in row.sides}
    if goal:
        names["ours"] += f", goal at least {goal}"
    shares = {name: row.rate(side)[0] / quiet.rate(side)[0] for side, name in names.items()}
    return replace(row, figures=shares)


@contextmanager
def busy(count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """``count`` processes that do nothing but compute, for as long as this is open."""
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", LOOP, str(os.getpid())])
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


if __name__ == "__main__":
    main()
