"""Times the same work done in different ways, side by side, and keeps what was found.

The sides take turns, so whatever else the machine does falls on all of them, and what counts is
the ratio. ``benchmarks/results/<kind of processor>/<name>.json`` has every sample, the machine,
versions and the date.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "datasets", "tiktoken", "pyarrow", "numpy", "dvc", "mlflow")
IMITATED = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
"""Environment variables that make a larger processor compute as a smaller kind does; PyTorch and
its libraries read them when they are loaded."""


class Sample(NamedTuple):
    """Seconds of one call: by the clock, and of all threads of the process together."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Timing:
    """The samples of a side."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, clock: float, processor: float) -> None:
        self.clock.append(clock)
        self.processor.append(processor)


@dataclass(frozen=True)
class Row:
    """One piece of work, done by several sides: ours comes first."""

    work: str
    """What was done, in the words of the table."""
    amount: float
    """How much of it a call does, counted in ``unit``."""
    unit: str
    sides: Mapping[str, Timing]
    goals: Mapping[str, float] = field(default_factory=dict)
    """How many times faster than the named side ours is meant to be."""
    checks: Sequence[str] = ()
    """What was found to be the same on both sides, as sentences."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured or computed, such as floors and peak memory, units in the names."""

    @property
    def ours(self) -> str:
        return next(iter(self.sides))

    def rate(self, side: str) -> tuple[float, float, float]:
        """Median, lowest and highest ``unit`` per second."""
        seconds = self.sides[side].clock
        return tuple(
            self.amount / s for s in (statistics.median(seconds), max(seconds), min(seconds))
        )  # type: ignore[return-value]  # three of them

    def ratio(self, side: str) -> float:
        """How many times faster ours is, by the medians of the clock."""
        return statistics.median(self.sides[side].clock) / statistics.median(
            self.sides[self.ours].clock
        )


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time every side ``rounds`` times, in turns, after one call of each that does not count.

    A side that is a process of its own gives a `Sample` itself.
    """
    for call in sides.values():
        call()
    timings = {name: Timing() for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            timings[name].add(*timed(call))
    return timings


def timed(call: Callable[[], object]) -> Sample:
    """How long a call takes, by its own account if it gives one."""
    clock, processor = time.perf_counter(), time.process_time()
    found = call()
    if isinstance(found, Sample):
        return found
    return Sample(time.perf_counter() - clock, time.process_time() - processor)


def record(
    name: str,
    rows: Sequence[Row],
    device: str = "cpu",
    quick: bool = False,
    results: Path = RESULTS,
) -> None:
    """Print the rows, and write them to ``<results>/<kind>/<name>.json``, unless ``quick``: such
    sizes only show that all of it runs."""
    print("\n\n".join(map(table, rows)), flush=True)
    if quick:
        return
    path = results / kind(device) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "rows": [_row(row) for row in rows],
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def table(row: Row) -> str:
    """The row as lines of text: each side's median, spread, and how many times faster ours is."""
    lines = [f"{row.work} ({row.unit}/s)"]
    for side in row.sides:
        median, low, high = row.rate(side)
        line = f"  {side:<28}{median:>14,.1f}  ({low:,.1f} to {high:,.1f})"
        if side != row.ours:
            goal = f", goal {row.goals[side]}" if side in row.goals else ""
            line += f"   ours is {row.ratio(side):.2f} times as fast{goal}"
        lines.append(line)
    lines += [f"  {name}: {value:,.4g}" for name, value in row.figures.items()]
    lines += [f"  checked: {check}" for check in row.checks]
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on, apart from the software."""
    import torch

    facts: dict[str, Any] = {
        "kind": kind(device),
        "imitated_by": imitated_by(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def kind(device: str = "cpu") -> str:
    """What the results of like machines are filed under: the largest instructions that PyTorch uses
    here, and whether our products are in bfloat16, such as ``avx2`` or ``avx512-bf16``; a GPU's
    name, such as ``nvidia-h100-80gb-hbm3``."""
    import torch

    from gpt2.core.device import DeviceParams, choose_runtime

    if device == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
    arm = platform.machine() in ("arm64", "aarch64")
    used = "neon" if arm else torch.backends.cpu.get_cpu_capability().lower()
    bfloat16 = choose_runtime(DeviceParams(device="cpu")).dtype == torch.bfloat16
    return f"{used}-bf16" if bfloat16 else used


def imitated_by() -> dict[str, str]:
    """The environment variables that keep a larger processor from its own instructions; empty
    where it uses the largest that it has."""
    import torch

    larger = torch.cpu.get_capabilities().get("avx512_f")
    if not larger or torch.backends.cpu.get_cpu_capability() == "AVX512":
        return {}
    return {name: os.environ[name] for name in IMITATED["avx2"] if name in os.environ}


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def child(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """The last line that ``python -m module arguments`` prints, read as JSON: a side that needs a
    process of its own, for its memory or its start."""
    command = [sys.executable, "-m", module, *arguments]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _row(row: Row) -> dict[str, Any]:
    return {
        "work": row.work,
        "amount": row.amount,
        "unit": row.unit,
        "sides": {
            side: {
                "median": row.rate(side)[0],
                "low": row.rate(side)[1],
                "high": row.rate(side)[2],
                "ratio": None if side == row.ours else row.ratio(side),
                "goal": row.goals.get(side),
                "seconds": timing.clock,
                "processor_seconds": timing.processor,
            }
            for side, timing in row.sides.items()
        },
        "checks": list(row.checks),
        "figures": dict(row.figures),
    }
