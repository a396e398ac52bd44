"""Where and in which number format the model computes."""

import ctypes
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from gpt2.core.errors import UserError
from gpt2.core.params import Params

log = logging.getLogger(__name__)

EMULATED = 3.0
"""A product that takes so many times as long as in float32 is not computed natively."""

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


class DeviceParams(Params):
    """Where to compute."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu."""
    dtype: DTypeName = "auto"
    """Format of the matrix products; weights stay float32. auto: bfloat16 where the device computes
    it natively and faster, else float32."""


@dataclass(frozen=True)
class Runtime:
    """A device and the format of its matrix products."""

    device: torch.device
    dtype: torch.dtype

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in `dtype`, sums and norms in float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


def choose_runtime(params: DeviceParams) -> Runtime:
    """The runtime that ``params`` ask for.

    Raises:
        UserError: the device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = params.device
    if name == "auto":
        name = next(candidate for candidate in ("cuda", "mps", "cpu") if available[candidate])
    if not available[name]:
        raise UserError(f"device: {name} is not available on this machine. Set device: auto")
    if name == "cpu":
        _keep_large_blocks()
        _forget_kernels()
    dtype = getattr(torch, params.dtype) if params.dtype != "auto" else _native_dtype(name)
    runtime = Runtime(torch.device(name), dtype)
    if is_emulated(runtime):
        _warn_of_emulation(dtype)
    return runtime


def is_emulated(runtime: Runtime) -> bool:
    """Whether a processor lacks the format and computes it the slow way, as measured once."""
    return (
        runtime.device.type == "cpu"
        and runtime.dtype not in (torch.float32, _native_dtype("cpu"))
        and slowdown(runtime.dtype) > EMULATED
    )


def native_formats() -> list[str]:
    """The formats of products that the processor computes itself, by their names in `dtype`."""
    formats = (torch.float32, torch.bfloat16, torch.float16)
    native = [dtype for dtype in formats if not is_emulated(Runtime(torch.device("cpu"), dtype))]
    return [dtype_name(dtype) for dtype in native]


@cache
def slowdown(dtype: torch.dtype, size: int = 256, rounds: int = 4) -> float:
    """How many times as long as in float32 a small product takes on one core."""

    def seconds(matrix: torch.Tensor) -> float:
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        return time.perf_counter() - started

    plain = torch.ones(size, size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where others are busy, too
    try:
        pairs = [(seconds(plain), seconds(plain.to(dtype))) for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    return min(slow for _, slow in pairs) / min(fast for fast, _ in pairs)


@cache
def _warn_of_emulation(dtype: torch.dtype) -> None:
    # Once: a stage asks for its runtime several times.
    log.warning(
        "dtype: %s is emulated on this processor: a matrix product takes %.0f times as long as in "
        "float32. Set dtype: auto",
        dtype_name(dtype),
        slowdown(dtype),
    )


def dtype_name(dtype: torch.dtype) -> str:
    """As the parameter `dtype` names it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def _native_dtype(device: str) -> torch.dtype:
    if device == "cuda":
        # is_bf16_supported() says yes where it is emulated, too; Ampere (8.0) was the first.
        native = torch.cuda.get_device_capability() >= (8, 0)
    elif device == "cpu":
        # AMD's multiply 2.7 times as fast as in float32, Intel's without AMX half as fast.
        native = _has_bfloat16() and slowdown(torch.bfloat16) < 1
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def _has_bfloat16() -> bool:
    """Whether the processor has instructions for it, and PyTorch may use them: the variable
    ATEN_CPU_CAPABILITY makes a processor look smaller than it is."""
    capabilities = torch.cpu.get_capabilities()
    has = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return bool(has) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _keep_large_blocks() -> None:
    # By default glibc returns every large temporary to the kernel, and the page faults of getting
    # it back cost a training step 10 to 15 %. M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1.
    if sys.platform == "linux" and os.confstr("CS_GNU_LIBC_VERSION"):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, (1 << 31) - 1)


def _forget_kernels() -> None:
    # oneDNN and PyTorch each keep a kernel for every shape that they have met, and finetuning meets
    # a new one at every step: 20 MiB a step, up to gigabytes. Both read these at their first use.
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "32")


def peak_memory_mib(device: torch.device) -> float:
    """Most memory that this process has held so far, in MiB: on the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # `ru_maxrss` of a process starts with what its parent held when it was started.
    status = Path("/proc/self/status")
    if status.exists() and (
        match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
    ):
        return int(match[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
