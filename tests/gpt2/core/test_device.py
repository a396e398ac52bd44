import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.measure import IMITATED
from gpt2.core.device import DeviceParams, Runtime, choose_runtime, native_dtypes, peak_memory_mib
from gpt2.core.errors import UserError
from scripts.deps import ROOT


def test_an_unavailable_device_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(UserError, match="device: cuda is not available"):
        choose_runtime(DeviceParams(device="cuda"))


def rate(dtype: torch.dtype) -> float:
    """Matrix products per second, with matrices that do not fit into the L1 cache."""
    matrix = torch.ones(768, 768, dtype=dtype)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 1 / best


def test_auto_is_bfloat16_only_where_it_is_native_and_faster():
    flags = torch.cpu.get_capabilities()
    native = flags.get("avx512_bf16") or flags.get("amx_bf16")
    runtime = choose_runtime(DeviceParams(device="cpu"))
    faster = native and rate(torch.bfloat16) > rate(torch.float32)
    assert runtime.dtype == (torch.bfloat16 if faster else torch.float32)


def test_a_processor_restricted_to_avx2_computes_in_float32():
    code = "from gpt2.core.device import *; print(choose_runtime(DeviceParams(device='cpu')).dtype)"
    environment = {**os.environ, **IMITATED["avx2"], "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "torch.float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_dtype(dtype):
    layer = torch.nn.Linear(4, 4)
    with Runtime(torch.device("cpu"), dtype).autocast():
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_peak_memory_counts_allocated_blocks():
    device = torch.device("cpu")
    before = peak_memory_mib(device)
    block = torch.ones(int(before + 64) * 2**18)  # 4-byte floats: more than the peak so far
    assert peak_memory_mib(device) >= before + 60
    del block


def test_a_native_dtype_gives_no_warning(caplog):
    for name in ("auto", *native_dtypes()):
        choose_runtime(DeviceParams(device="cpu", dtype=name))
    assert caplog.text == ""


CHOSEN = """
import logging, sys, time
logging.basicConfig(format="%(message)s")
from gpt2.core.device import DeviceParams, choose_runtime
automatic = choose_runtime(DeviceParams(device="cpu")).dtype
started = time.perf_counter()
for name in sys.argv[1:]:
    assert str(choose_runtime(DeviceParams(device="cpu", dtype=name)).dtype) == f"torch.{name}"
print(automatic, time.perf_counter() - started)
"""


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_an_emulated_dtype_gives_one_warning_with_its_slowdown(name):
    process = subprocess.run(
        [sys.executable, "-c", CHOSEN, name, name],
        cwd=ROOT / "src",
        env={**os.environ, **IMITATED["avx2"]},
        capture_output=True,
        text=True,
        check=True,
    )
    automatic, seconds = process.stdout.split()
    if name == "bfloat16" and automatic == "torch.bfloat16":
        pytest.skip("it counts as native under these settings")
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    warning = re.fullmatch(
        rf"dtype: {name} is emulated on this processor: a matrix product takes (\d+) times as long "
        "as in float32. Set dtype: auto",
        lines[0],
    )
    assert warning and int(warning[1]) >= 3
    assert float(seconds) < 5  # 0.2 s on an idle machine
