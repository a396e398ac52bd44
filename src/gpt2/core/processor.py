"""What the processor is, and how busy others keep it."""

import argparse
import ast
import inspect
import os
import platform
import time
from dataclasses import dataclass

INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512_f": "AVX-512",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_bf16": "AMX-BF16",
    "neon": "NEON",
    "sve": "SVE",
}
"""Of `torch.cpu.get_capabilities()`, those that decide how fast products are."""

BUSY = 0.25
"""Cores that others keep busy: less is what any machine does beside."""


@dataclass(frozen=True)
class CoreSeconds:
    """Processor time since some moment in the past, summed over all cores."""

    at: float
    """The clock, in seconds."""
    all: float
    """Of everything that runs here, and of other virtual machines in our stead."""
    own: float
    """Of this process and what it has started."""


def core_seconds() -> CoreSeconds:
    """Up to now."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # Time of guests is in that of users, too.
    idle = ("idle", "iowait", "guest", "guest_nice")
    own = os.times()
    return CoreSeconds(
        time.perf_counter(),
        sum(seconds for name, seconds in times.items() if name not in idle),
        own.user + own.system + own.children_user + own.children_system,
    )


def busy_elsewhere(since: CoreSeconds) -> float:
    """How many cores others kept busy, on average since then."""
    now = core_seconds()
    elapsed = max(now.at - since.at, 1e-3)
    return max(0.0, ((now.all - since.all) - (now.own - since.own)) / elapsed)


def cores() -> int:
    """Of the machine, whether or not this process may use them."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores()


def load() -> float:
    """Processes that ran or waited to run, on average over the last minute."""
    return os.getloadavg()[0]


def instruction_sets() -> list[str]:
    """The extensions that decide how fast products are, as PyTorch finds them."""
    import torch

    found = torch.cpu.get_capabilities()
    names = [name for flag, name in INSTRUCTION_SETS.items() if found.get(flag)]
    # Every 64-bit ARM has it.
    always = ["NEON"] if platform.machine().lower() in ("arm64", "aarch64") else []
    return list(dict.fromkeys([*always, *names]))


def held_to() -> str | None:
    """The smaller kernels that ATEN_CPU_CAPABILITY holds PyTorch to, if it does."""
    import torch

    held = os.environ.get("ATEN_CPU_CAPABILITY")
    return torch.backends.cpu.get_cpu_capability() if held else None


def parsing_rate(seconds: float = 0.1) -> float:
    """Characters of Python that one core parses in a second: how fast it is at all that is no
    arithmetic. Processor time counts, so that others change it little."""
    source = inspect.getsource(argparse)
    best, began = 0.0, time.perf_counter()
    while not best or time.perf_counter() - began < seconds:
        started = time.process_time()
        ast.parse(source)
        best = max(best, len(source) / (time.process_time() - started))
    return best
