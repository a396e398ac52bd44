"""Cross-entropy computed from features in chunks, without the logits of the whole batch.

With GPT-2's vocabulary, the logits of a batch would be by far the largest tensor of a training
step. Here loss and gradient of a chunk are computed together, and its logits are then discarded
(Hsu et al. 2024).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 2**28
"""Logits in memory at a time. Small chunks are slower: each adds to the whole weight gradient."""
ALIGNMENT = 64
"""Rows of logits are padded to a multiple of this, which makes matrix products faster."""
PART = {"cpu": 2**20, "cuda": 2**25, "mps": 2**25}
"""Logits converted to float32 at a time, by device: on a CPU few enough to stay in its cache."""

ChunkLoss = Callable[[Tensor, Tensor, bool], Tensor]
"""`_chunk_loss`, or a function like it."""


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    chunk_loss: ChunkLoss | None = None,
) -> Tensor:
    """The cross-entropy of ``features @ weight.T`` in nats, summed over the targets, in float32.

    Matrix products use the dtype of autocast, if it is enabled; logarithms and sums use float32.

    Args:
        features: ``(N, C)``.
        weight: ``(V, C)``, the output layer.
        targets: ``(N,)``, ids below V.
        chunk_bytes: maximum bytes of logits in memory at a time.
        chunk_loss: computes the loss of a chunk; None: `_chunk_loss`.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows = max(1, chunk_bytes // (dtype.itemsize * len(weight)))
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch has no type
        features, weight, targets, dtype, rows, chunk_loss or _chunk_loss
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The forward pass computes the gradient too; the backward pass only scales it."""

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
                logits = x[here] @ w.t()  # n, V + padding
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


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``(V, C)`` with rows of zeros appended, whose logits and gradients are not used."""
    return F.pad(weight.to(dtype), (0, 0, 0, -len(weight) % ALIGNMENT))


def _chunk_loss(logits: Tensor, targets: Tensor, needs_gradient: bool) -> Tensor:
    """The summed loss of ``logits`` ``(n, V)``, which are overwritten with their gradient."""
    loss = logits.new_zeros((), dtype=torch.float32)
    rows = max(1, PART[logits.device.type] // logits.shape[1])
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        part, target = logits[here].float(), targets[here, None]
        p = part.softmax(-1)
        # log_softmax would compute all exponentials again. The largest probability is never near 0,
        # so its logarithm is exact; differences of logits give the others.
        log_p = p.amax(-1).log() + part.gather(1, target)[:, 0] - part.amax(-1)
        loss -= log_p.sum()
        if needs_gradient:
            # The gradient: the probabilities, minus 1 at the target.
            logits[here] = p.scatter_(1, target, log_p.expm1()[:, None])
    return loss


def fusable_chunk_loss(logits: Tensor, targets: Tensor, needs_gradient: bool) -> Tensor:
    """`_chunk_loss` in a form that a compiler fuses into one kernel, without float32 logits in
    memory."""
    log_p, target = logits.float().log_softmax(-1), targets[:, None]
    loss = -log_p.gather(1, target).sum()
    if needs_gradient:
        hit = torch.arange(logits.shape[1], device=logits.device) == target
        logits.copy_(torch.where(hit, log_p.expm1(), log_p.exp()))
    return loss
