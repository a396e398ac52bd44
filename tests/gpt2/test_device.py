import os
import re
import subprocess
import sys

import pytest
import torch

from gpt2.device import DeviceParams, Runtime, choose_runtime, native_formats, peak_memory_mib
from gpt2.errors import UserError
from scripts.deps import ROOT
from tests.processors import AVX2


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(UserError, match="device: cuda is not available"):
        choose_runtime(DeviceParams(device="cuda"))


def test_auto_computes_in_bfloat16_only_where_the_processor_does():
    flags = torch.cpu.get_capabilities()
    native = flags.get("avx512_bf16") or flags.get("amx_bf16")
    runtime = choose_runtime(DeviceParams(device="cpu"))
    assert runtime.dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_dtype(dtype):
    layer = torch.nn.Linear(4, 4)
    with Runtime(torch.device("cpu"), dtype).autocast():
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_peak_memory_counts_what_was_held():
    device = torch.device("cpu")
    before = peak_memory_mib(device)
    block = torch.ones(int(before + 64) * 2**18)  # floats of 4 bytes: more than was ever held
    assert peak_memory_mib(device) >= before + 60
    del block


def test_a_format_of_this_processor_needs_no_warning(caplog):
    for name in ("auto", *native_formats()):
        choose_runtime(DeviceParams(device="cpu", dtype=name))
    assert caplog.text == ""


CHOSEN = """
import logging, sys, time
logging.basicConfig(format="%(message)s")
from gpt2.device import DeviceParams, choose_runtime
automatic = choose_runtime(DeviceParams(device="cpu")).dtype
started = time.perf_counter()
for name in sys.argv[1:]:
    assert str(choose_runtime(DeviceParams(device="cpu", dtype=name)).dtype) == f"torch.{name}"
print(automatic, time.perf_counter() - started)
"""


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_format_that_is_emulated_is_warned_of_once_with_what_it_costs(name):
    process = subprocess.run(
        [sys.executable, "-c", CHOSEN, name, name],
        cwd=ROOT / "src",
        env={**os.environ, **AVX2},
        capture_output=True,
        text=True,
        check=True,
    )
    automatic, seconds = process.stdout.split()
    if name == "bfloat16" and automatic == "torch.bfloat16":
        pytest.skip("it counts as native under these settings")
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    told = re.fullmatch(
        rf"dtype: {name} is emulated on this processor: a matrix product takes (\d+) times as long "
        "as in float32. Set dtype: auto",
        lines[0],
    )
    assert told and int(told[1]) >= 3
    assert float(seconds) < 5  # 0.2 s where nothing else is busy
