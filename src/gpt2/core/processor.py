"""Properties of the CPU, and how busy other processes keep it."""

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
"""The flags of `torch.cpu.get_capabilities()` that determine the speed of matrix products."""

BUSY = 0.25
"""Cores that other processes keep busy; less than this is normal background load."""


@dataclass(frozen=True)
class CoreSeconds:
    """CPU time since some moment in the past, summed over all cores."""

    at: float
    """Wall-clock time, in seconds."""
    all: float
    """CPU seconds of all processes, including time that the hypervisor gave to other machines."""
    own: float
    """CPU seconds of this process and its children."""


def core_seconds() -> CoreSeconds:
    """The CPU time used so far."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # The time of guests is also counted as user time.
    idle = ("idle", "iowait", "guest", "guest_nice")
    own = os.times()
    return CoreSeconds(
        time.perf_counter(),
        sum(seconds for name, seconds in times.items() if name not in idle),
        own.user + own.system + own.children_user + own.children_system,
    )


def busy_elsewhere(since: CoreSeconds) -> float:
    """The average number of cores that other processes have kept busy since then."""
    now = core_seconds()
    elapsed = max(now.at - since.at, 1e-3)
    return max(0.0, ((now.all - since.all) - (now.own - since.own)) / elapsed)


def cores() -> int:
    """The number of cores of the machine, whether or not this process may use them."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores()


def load() -> float:
    """Load average: processes that ran or waited to run over the last minute."""
    return os.getloadavg()[0]


def instruction_sets() -> list[str]:
    """The instruction sets that determine the speed of matrix products, as PyTorch detects them."""
    import torch

    found = torch.cpu.get_capabilities()
    names = [name for flag, name in INSTRUCTION_SETS.items() if found.get(flag)]
    # Every 64-bit ARM CPU has it.
    always = ["NEON"] if platform.machine().lower() in ("arm64", "aarch64") else []
    return list(dict.fromkeys([*always, *names]))


def capability_limit() -> str | None:
    """The instruction set that ATEN_CPU_CAPABILITY limits PyTorch to; None if it is not set."""
    import torch

    limited = os.environ.get("ATEN_CPU_CAPABILITY")
    return torch.backends.cpu.get_cpu_capability() if limited else None


def parsing_rate(seconds: float = 0.1) -> float:
    """Characters of Python source that one core parses per second: a benchmark of the CPU without
    arithmetic. It measures CPU time, so other processes have little influence."""
    source = inspect.getsource(argparse)
    best, began = 0.0, time.perf_counter()
    while not best or time.perf_counter() - began < seconds:
        started = time.process_time()
        ast.parse(source)
        best = max(best, len(source) / (time.process_time() - started))
    return best
