"""A side in a process of its own, so that it has nobody else's settings of memory and threads.

The benchmark starts `Side`s and calls them in turns; each runs `serve`, and sleeps in between.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Sample
from gpt2 import spins

SPIN_COUNT = "GOMP_SPINCOUNT"


class Side:
    """``python -m module arguments``, which calls `serve`; each call of this lets it work once."""

    def __init__(self, module: str, *arguments: str, ours: bool = False) -> None:
        """The threads of a side that is ``ours`` wait as those of our stages do."""
        variables = {name: value for name, value in os.environ.items() if name != SPIN_COUNT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**variables, **({SPIN_COUNT: str(spins())} if ours else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.results: list[dict[str, Any]] = []
        """What the work gave, call by call."""
        self.samples: list[Sample] = []
        """How long it took."""

    def __call__(self) -> Sample:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"clock"'):  # what libraries print is not our message
                found = json.loads(line)
                self.results.append(found["result"])
                self.samples.append(Sample(found["clock"], found["processor"]))
                return self.samples[-1]
        raise SystemExit(f"a side ended early: {' '.join(map(str, self._process.args))}")  # type: ignore[arg-type]  # a list

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()


class Turns:
    """What a side does when it is called from within a library's own loop."""

    def wait(self) -> bool:
        """Sleep until it is this side's turn; False when there is none any more."""
        came = bool(sys.stdin.readline())
        self._started = time.perf_counter(), time.process_time()
        return came

    def done(self, result: Callable[[], Mapping[str, Any]]) -> None:
        """Say that the work is done; ``result`` is called off the clock."""
        clock, processor = self._started
        seconds = {
            "clock": time.perf_counter() - clock,
            "processor": time.process_time() - processor,
        }
        print(json.dumps({**seconds, "result": dict(result())}), flush=True)


def serve(work: Callable[[], object], result: Callable[[], Mapping[str, Any]]) -> None:
    """Do ``work`` at each turn; ``result`` is what it gave, asked for off the clock."""
    turns = Turns()
    while turns.wait():
        work()
        turns.done(result)
