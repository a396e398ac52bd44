import pytest
import torch

from gpt2.device import DeviceParams, Runtime, choose_runtime, peak_memory_mib
from gpt2.errors import UserError


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
