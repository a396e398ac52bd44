"""`causal_attention` against PyTorch's `scaled_dot_product_attention`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.model.attention import BLOCK, STEP, _fused, _varlen, causal_attention


def queries_keys_values(T: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, T, 3, 4, 8, dtype=dtype, requires_grad=True)


def pytorchs(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


@pytest.mark.parametrize("T", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_result_and_gradient_equal_pytorchs(T: int) -> None:
    qkv = queries_keys_values(T)
    ours, whole = causal_attention(qkv), pytorchs(qkv)
    torch.testing.assert_close(ours, whole)
    weights = torch.randn_like(whole)
    mine, theirs = (torch.autograd.grad((y * weights).sum(), qkv)[0] for y in (ours, whole))
    torch.testing.assert_close(mine, theirs)


LENGTHS = [3, STEP, BLOCK + 1, 1, STEP + 1, 5]


def packed(lengths: list[int]) -> Tensor:
    """Queries, keys and values of packed sequences."""
    return queries_keys_values(sum(lengths)).detach()[:1].requires_grad_()


@pytest.mark.parametrize(
    "lengths",
    [LENGTHS, [2 * STEP, 2 * STEP], [STEP + 6, STEP - 6]],
    ids=["several widths", "without padding", "sum equals a padded width"],
)
@pytest.mark.parametrize("attention", [causal_attention, _fused], ids=["CPU", "GPU"])
def test_packed_sequences_do_not_attend_to_each_other(
    attention: Callable[[Tensor, float, Tensor], Tensor], lengths: list[int]
) -> None:
    qkv = packed(lengths)
    ours = attention(qkv, 0.0, torch.tensor(lengths))
    alone = torch.cat([pytorchs(text) for text in qkv.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(ours, alone)
    weights = torch.randn_like(ours)
    mine, theirs = (torch.autograd.grad((y * weights).sum(), qkv)[0] for y in (ours, alone))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("attention", [causal_attention, _fused], ids=["CPU", "GPU"])
def test_dropout_drops_weights_of_packed_sequences(
    attention: Callable[[Tensor, float, Tensor], Tensor],
) -> None:
    qkv, lengths = packed(LENGTHS).detach(), torch.tensor(LENGTHS)
    mean = sum(attention(qkv, 0.3, lengths) for _ in range(400)) / 400
    assert (mean - attention(qkv, 0.0, lengths)).abs().mean() < 0.03
    assert not torch.equal(attention(qkv, 0.3, lengths), attention(qkv, 0.3, lengths))


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation creates."""

    numbers = 0

    def __torch_dispatch__(
        self, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        tensors = made if isinstance(made, tuple | list) else [made]
        counts = [tensor.numel() for tensor in tensors if isinstance(tensor, Tensor)]
        self.numbers = max([self.numbers, *counts])
        return made


def test_memory_of_packed_sequences_is_linear_in_their_length() -> None:
    qkv = torch.randn(1, 64 * 1000, 3, 2, 8, requires_grad=True)
    with Largest() as largest:
        _fused(qkv, 0.0, torch.tensor([1000] * 64)).sum().backward()
    assert largest.numbers < 1.1 * qkv.numel()


def test_shapes_and_dtypes_suit_the_gpu_kernel_for_packed_sequences() -> None:
    """Values need a GPU: ``python -m benchmarks.gpu``."""
    qkv = torch.empty(sum(LENGTHS), 3, 4, 8, dtype=torch.bfloat16, device="meta").requires_grad_()
    mixed = _varlen(qkv, torch.tensor(LENGTHS))
    assert (mixed.shape, mixed.dtype) == ((sum(LENGTHS), 4, 8), torch.bfloat16)
    (gradient,) = torch.autograd.grad(mixed, qkv, torch.empty_like(mixed))
    assert (gradient.shape, gradient.dtype) == (qkv.shape, qkv.dtype)


def test_bfloat16_is_about_as_exact_as_pytorchs() -> None:
    exact = queries_keys_values(8 * BLOCK)
    rounded = exact.detach().bfloat16().requires_grad_()
    true = pytorchs(exact)
    (true_gradient,) = torch.autograd.grad(true.square().sum(), exact)
    errors = []
    for attention in (causal_attention, pytorchs):
        y = attention(rounded)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), rounded)
        errors.append(((y - true).norm(), (gradient - true_gradient).norm()))
    (mine, my_gradient), (theirs, their_gradient) = errors
    assert mine < 1.5 * theirs
    assert my_gradient < 2 * their_gradient  # sums over blocks are rounded at each


def test_gradient_with_dropout() -> None:
    qkv = queries_keys_values(BLOCK + 5, torch.float64)

    def seeded(qkv: Tensor) -> Tensor:
        torch.manual_seed(7)
        return causal_attention(qkv, dropout=0.5)

    small = qkv[:1, BLOCK - 1 :, :, :2, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(seeded, small)
    mean = sum(causal_attention(qkv.detach(), dropout=0.3) for _ in range(800)) / 800
    assert (mean - pytorchs(qkv.detach())).abs().mean() < 0.02
    assert not torch.equal(seeded(qkv), causal_attention(qkv))


def test_autocast_and_later_tokens_change_nothing() -> None:
    qkv = queries_keys_values(BLOCK + 1).detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert causal_attention(qkv).dtype == torch.float32
    changed = qkv.clone()
    changed[:, 40:] = 1e4
    assert torch.equal(causal_attention(changed)[:, :40], causal_attention(qkv)[:, :40])
