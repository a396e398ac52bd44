"""Checks of the machine: Python and its packages, processor, GPU, compiler, memory and disk."""

import platform
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpt2.core.device import DeviceParams, choose_runtime, native_dtypes
from gpt2.core.errors import UserError
from gpt2.core.processor import (
    BUSY,
    busy_elsewhere,
    capability_limit,
    core_seconds,
    instruction_sets,
    load,
    usable_cores,
)
from gpt2.pipeline.checks.check import Check, installed_version
from gpt2.report.formats import memory as in_words

OLDEST_PYTHON = (3, 11)
COMPILERS = ("c++", "g++", "clang++")


def python_version() -> Check:
    """Python is new enough."""
    found, oldest = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, OLDEST_PYTHON))
    return Check(
        "Python",
        sys.version_info >= OLDEST_PYTHON,
        found,
        f"Install Python {oldest} or newer and run: make PYTHON=python{oldest} run",
    )


def pinned_packages(requirements: Path) -> Check:
    """Every package has the version that ``requirements`` pins."""
    if not requirements.is_file():
        return Check(
            "packages", False, f"no {requirements}", "Run this in the repository", needed=False
        )
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip().partition("==") for line in lines if "==" in line]
    wrong = [
        f"{name} {found or 'missing'}, pinned {wanted}"
        for name, _, wanted in pins
        if (found := installed_version(name)) != wanted
    ]
    shown = "; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
    return Check(
        "packages",
        not wrong,
        f"{len(wrong)} of {len(pins)} differ: {shown}" if wrong else f"{len(pins)} as pinned",
        f"python -m pip install -r {requirements}",
    )


def processor(seconds: float = 0.2) -> Check:
    """What the processor offers, and how busy other processes keep it during ``seconds``."""
    import torch

    since = core_seconds()
    time.sleep(seconds)
    busy, limit = busy_elsewhere(since), capability_limit()
    facts = [
        f"{usable_cores()} core(s)",
        ", ".join(instruction_sets()) or platform.machine(),
        *([f"limited to {limit}"] if limit else []),
        f"native {', '.join(native_dtypes())}",
        f"{torch.get_num_threads()} thread(s)",
        f"load {load():.1f}",
        *([f"other processes use {busy:.1f} core(s)"] if busy >= BUSY else []),
    ]
    return Check("processor", True, "; ".join(facts))


def gpu(devices: Sequence[DeviceParams]) -> Check:
    """A GPU; needed only if ``devices`` name one."""
    import torch

    try:
        for params in devices:
            choose_runtime(params)
    except UserError as error:
        return Check("GPU", False, "not the one that the profile names", str(error))
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("GPU", True, f"{name}, {_size(free)} of {_size(total)} free")
    if torch.backends.mps.is_available():
        return Check("GPU", True, "Metal (mps), shares the memory")
    return Check("GPU", False, "none: everything runs on the processor", needed=False)


def compiler(needed: bool) -> Check:
    """A C++ compiler, which ``compile: true`` needs."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    remedy = "Install a C++ compiler, or set compile: false"
    return Check("C++ compiler", bool(found), found or "none", remedy, needed)


def disk(root: Path, needed: float) -> Check:
    """Free disk space for what a run adds."""
    free = shutil.disk_usage(root).free
    finding = f"{_size(free)} free, about {_size(needed)} needed"
    return Check("disk", free >= needed, finding, "Free some space: dvc gc --workspace")


def memory(needed: float, devices: Sequence[DeviceParams]) -> Check:
    """Free memory for the largest stage: the GPU's if one of ``devices`` uses it."""
    import psutil
    import torch

    free = psutil.virtual_memory().available
    try:
        if any(choose_runtime(params).device.type == "cuda" for params in devices):
            free = torch.cuda.mem_get_info()[0]
    except UserError as error:
        return Check("memory", False, f"about {_size(needed)} needed", str(error))
    remedy = "Set micro_batch_size or activation_checkpointing, or use a smaller model"
    finding = f"{_size(free)} free, about {_size(needed)} needed"
    return Check("memory", free >= needed, finding, remedy)


def _size(n: float) -> str:
    return in_words(n / 2**20)
