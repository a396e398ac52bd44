"""Packed linear layers compared with plain ones, in every dtype."""

import pytest
import torch
from torch.nn import functional as F

from gpt2.core.device import Runtime
from gpt2.inference.generation.packed_linear import PackedLinear


@pytest.mark.parametrize("shape", [(1, 32), (7, 1, 32), (2, 19, 32)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_packed_linear_is_a_linear_layer(shape, bias, gelu, dtype):
    generator = torch.Generator().manual_seed(6)
    weight, x = torch.randn(61, 32, generator=generator), torch.randn(shape, generator=generator)
    added = torch.randn(61, generator=generator) if bias else None
    packed = PackedLinear(weight, added, Runtime(torch.device("cpu"), dtype), gelu)
    expected = F.linear(x, weight, added)
    if gelu:
        expected = F.gelu(expected, approximate=gelu)
    assert packed(x).dtype == dtype
    rounding = 2 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(packed(x).float(), expected, rtol=0, atol=max(rounding, 1e-5))
