"""The device that the model runs on, and the dtype of its matrix products."""

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
"""A dtype whose matrix product takes this many times as long as in float32 counts as emulated."""

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


class DeviceParams(Params):
    """The device and dtype to compute with."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu."""
    dtype: DTypeName = "auto"
    """Dtype of matrix products; weights stay float32. auto: bfloat16 where the device computes it
    natively and faster, else float32."""


@dataclass(frozen=True)
class Runtime:
    """A device and the dtype of its matrix products."""

    device: torch.device
    dtype: torch.dtype

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute matrix products in `dtype`, sums and norms in float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


def choose_runtime(params: DeviceParams) -> Runtime:
    """The runtime for ``params``.

    Raises:
        UserError: the device is not available.
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
        _keep_freed_memory()
        _limit_kernel_caches()
    dtype = getattr(torch, params.dtype) if params.dtype != "auto" else _native_dtype(name)
    runtime = Runtime(torch.device(name), dtype)
    if is_emulated(runtime):
        _warn_of_emulation(dtype)
    return runtime


def is_emulated(runtime: Runtime) -> bool:
    """Whether the CPU lacks instructions for the dtype and emulates it slowly (measured once)."""
    return (
        runtime.device.type == "cpu"
        and runtime.dtype not in (torch.float32, _native_dtype("cpu"))
        and slowdown(runtime.dtype) > EMULATED
    )


def native_dtypes() -> list[str]:
    """Names of the dtypes whose matrix products the CPU computes without emulation."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    native = [dtype for dtype in dtypes if not is_emulated(Runtime(torch.device("cpu"), dtype))]
    return [dtype_name(dtype) for dtype in native]


def dtype_name(dtype: torch.dtype) -> str:
    """The name in the parameter `dtype`, such as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


@cache
def slowdown(dtype: torch.dtype, size: int = 256, rounds: int = 4) -> float:
    """Time of a small matrix product on one core, relative to float32."""

    def seconds(matrix: torch.Tensor) -> float:
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        return time.perf_counter() - started

    plain = torch.ones(size, size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads would wait for each other
    try:
        pairs = [(seconds(plain), seconds(plain.to(dtype))) for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    return min(slow for _, slow in pairs) / min(fast for fast, _ in pairs)


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory of this process in MiB: allocated on the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not `ru_maxrss` on Linux: a new process inherits it from its parent.
    status = Path("/proc/self/status")
    if status.exists() and (
        match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
    ):
        return int(match[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@cache
def _warn_of_emulation(dtype: torch.dtype) -> None:
    # Cached, so that a stage that asks for its runtime several times warns once.
    log.warning(
        "dtype: %s is emulated on this processor: a matrix product takes %.0f times as long as in "
        "float32. Set dtype: auto",
        dtype_name(dtype),
        slowdown(dtype),
    )


def _native_dtype(device: str) -> torch.dtype:
    if device == "cuda":
        # is_bf16_supported() is also true where bfloat16 is emulated. Ampere (8.0) was the first
        # with native bfloat16.
        native = torch.cuda.get_device_capability() >= (8, 0)
    elif device == "cpu":
        # AMD's CPUs multiply 2.7 times as fast as in float32, Intel's without AMX half as fast.
        native = _has_bfloat16() and slowdown(torch.bfloat16) < 1
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def _has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions and PyTorch may use them.

    The environment variable ATEN_CPU_CAPABILITY can restrict PyTorch to older instruction sets.
    """
    capabilities = torch.cpu.get_capabilities()
    has = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return bool(has) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _keep_freed_memory() -> None:
    # By default glibc returns every large freed block to the kernel, and the page faults of the
    # next allocation cost a training step 10 to 15 %. M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1.
    if sys.platform == "linux" and os.confstr("CS_GNU_LIBC_VERSION"):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, (1 << 31) - 1)


def _limit_kernel_caches() -> None:
    # oneDNN and PyTorch each cache a kernel for every shape. In finetuning nearly every step has a
    # new shape: 20 MiB a step, up to gigabytes. Both read these variables at their first use.
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "32")
