"""Cross-entropy straight from features, so that the logits of a batch are never whole in memory.

With GPT-2's vocabulary they would be by far the largest tensor of a training step. A chunk's loss
and gradient both come out of the same logits, which are then forgotten (Hsu et al. 2024).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 2**28
"""Smaller chunks cost time: each adds to the gradient of all weights."""
ALIGNMENT = 64
"""Products read rows of logits faster whose length is a multiple of it; 50,257 is odd."""
PART = {"cpu": 2**20, "cuda": 2**25, "mps": 2**25}
"""Logits that are in float32 at a time: on a CPU so few that they stay in its cache."""

ChunkLoss = Callable[[Tensor, Tensor, bool], Tensor]
"""`_chunk_loss`, or another one like it."""


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    chunk_loss: ChunkLoss | None = None,
) -> Tensor:
    """The cross-entropy of ``features @ weight.T``, summed over the targets, in nats; float32.

    Products are in autocast's format where that is on; logarithms and sums in float32.

    Args:
        features: ``(N, C)``.
        weight: ``(V, C)``, the output layer.
        targets: ``(N,)``, ids below V.
        chunk_bytes: most bytes of logits in memory at a time.
        chunk_loss: what computes the loss of a chunk; None: operation by operation.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows = max(1, chunk_bytes // (dtype.itemsize * len(weight)))
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch has no type
        features, weight, targets, dtype, rows, chunk_loss or _chunk_loss
    )
    return loss


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``(V, C)`` with zeros below, which make logits and derivatives of 0 that change nothing."""
    return F.pad(weight.to(dtype), (0, 0, 0, -len(weight) % ALIGNMENT))


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of a sum is known but for a factor, so it is computed along with the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        rows: int,
        chunk_loss: ChunkLoss,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        loss = features.new_zeros((), dtype=torch.float32)
        x, w, V = features.to(dtype), _aligned(weight, dtype), len(weight)
        if wanted:
            d_features, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        with torch.autocast(features.device.type, enabled=False):
            for start in range(0, len(targets), rows):
                here = slice(start, start + rows)
                logits = x[here] @ w.t()  # n, V and what aligns it
                loss += chunk_loss(logits[:, :V], targets[here], wanted)
                if wanted:
                    torch.mm(logits, w, out=d_features[here])
                    d_weight += (logits.t() @ x[here])[:V]
        if wanted:
            ctx.save_for_backward(d_features, d_weight)
            ctx.features_dtype = features.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        d_features, d_weight = ctx.saved_tensors
        return d_features.to(ctx.features_dtype) * d_loss[0], d_weight * d_loss[0], *[None] * 4


def _chunk_loss(logits: Tensor, targets: Tensor, become_derivative: bool) -> Tensor:
    """The summed loss of ``logits`` ``(n, V)``; they become its derivative by them, in place."""
    loss = logits.new_zeros((), dtype=torch.float32)
    rows = max(1, PART[logits.device.type] // logits.shape[1])
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        part, target = logits[here].float(), targets[here, None]
        p = part.softmax(-1)
        # Exponentials are what costs: the logarithm of the largest probability, which is never
        # near 0, tells those of all others.
        log_p = p.amax(-1).log() + part.gather(1, target)[:, 0] - part.amax(-1)
        loss -= log_p.sum()
        if become_derivative:
            # The probabilities, less 1 at the target.
            logits[here] = p.scatter_(1, target, log_p.expm1()[:, None])
    return loss


def fusable_chunk_loss(logits: Tensor, targets: Tensor, become_derivative: bool) -> Tensor:
    """The same for a compiler: of operations on single logits it makes one kernel, in which nothing
    in float32 goes to memory."""
    log_p, target = logits.float().log_softmax(-1), targets[:, None]
    loss = -log_p.gather(1, target).sum()
    if become_derivative:
        hit = torch.arange(logits.shape[1], device=logits.device) == target
        logits.copy_(torch.where(hit, log_p.expm1(), log_p.exp()))
    return loss
