"""The chunked loss against PyTorch's cross-entropy of all logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2.model.loss import ChunkLoss, fusable_chunk_loss, linear_cross_entropy

N, C, V = 37, 16, 211
CHUNK_LOSSES = (
    None,
    fusable_chunk_loss,
    torch.compile(fusable_chunk_loss, backend="aot_eager", fullgraph=True),
)
every_chunk_loss = pytest.mark.parametrize(
    "chunk_loss", CHUNK_LOSSES, ids=["by operations", "fusable", "traced as for a GPU"]
)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    features = torch.randn(N, C, requires_grad=True)
    weight = torch.randn(V, C, requires_grad=True)
    return features, weight, torch.randint(V, (N,))


def gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * value, leaves)


@every_chunk_loss
@pytest.mark.parametrize("rows", [1, 10, 37, 1000])
def test_loss_and_gradients_equal_pytorchs(rows: int, chunk_loss: ChunkLoss | None) -> None:
    features, weight, targets = inputs()
    ours = linear_cross_entropy(features, weight, targets, rows * V * 4, chunk_loss)
    whole = F.cross_entropy(features @ weight.t(), targets, reduction="sum")
    torch.testing.assert_close(ours, whole)
    for mine, theirs in zip(
        gradients(ours, features, weight), gradients(whole, features, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@every_chunk_loss
def test_bfloat16_is_as_exact_as_pytorchs(chunk_loss: ChunkLoss | None) -> None:
    features, weight, targets = inputs()
    exact = F.cross_entropy(features @ weight.t(), targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(features, weight, targets, chunk_loss=chunk_loss)
        whole = F.cross_entropy((features @ weight.t()).float(), targets, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, whole)
    for mine, theirs, true in zip(
        gradients(ours, features, weight),
        gradients(whole, features, weight),
        gradients(exact, features, weight),
        strict=True,
    ):
        assert (mine - true).norm() < 1.1 * (theirs - true).norm()


@every_chunk_loss
def test_certain_and_hopeless_predictions_are_as_exact_as_pytorchs(
    chunk_loss: ChunkLoss | None,
) -> None:
    logits = torch.tensor([[0.0, 90.0, -90.0], [3.0, 3.0, 3.0], [0.0, 14.0, 1.0], [1e4, 9.9e3, 0]])
    features, weight = torch.eye(4).requires_grad_(), logits.t().clone().requires_grad_()
    for targets in torch.tensor([[1, 0, 1, 0], [0, 1, 2, 2], [2, 2, 0, 1]]):
        ours = linear_cross_entropy(features, weight, targets, chunk_loss=chunk_loss)
        exact = (features @ weight.t()).double()
        whole = F.cross_entropy(exact, targets, reduction="sum")
        torch.testing.assert_close(ours, whole.float())
        (mine,) = gradients(ours, weight)
        (theirs,) = gradients(whole, weight)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_without_gradients_none_are_computed() -> None:
    features, weight, targets = inputs()
    with torch.no_grad():
        value = linear_cross_entropy(features, weight, targets)
    assert not value.requires_grad
    torch.testing.assert_close(
        value, F.cross_entropy(features @ weight.t(), targets, reduction="sum").detach()
    )


def test_no_targets_have_no_loss() -> None:
    features, weight, targets = inputs()
    value = linear_cross_entropy(features[:0], weight, targets[:0])
    assert value == 0
    assert gradients(value, weight)[0].count_nonzero() == 0
