"""Causal attention (Vaswani et al. 2017, 3.2.1; tutorial part 2).

On a GPU PyTorch does it. Its kernel for a CPU is slow at the derivative, and slower with dropout:
here queries go in blocks, each of which looks only at the keys up to its own end, in products large
enough to be fast.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128
"""Queries in a block: fewer waste less on what is masked, more make larger products."""


def causal_attention(qkv: Tensor, dropout: float = 0.0) -> Tensor:
    """For each token the mean of the values so far, weighted by its query's likeness to their keys.

    Shapes: B sequences, T tokens of each, H heads of D channels.

    Args:
        qkv: ``(B, T, 3, H, D)``: queries, keys and values, in one number format.
        dropout: probability of leaving out a weight.

    Returns:
        ``(B, T, H, D)``.
    """
    if qkv.device.type != "cpu":
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return mixed.transpose(1, 2)
    mixed = _CausalAttention.apply(qkv, dropout)  # type: ignore[no-untyped-call]  # torch has no type
    return cast(Tensor, mixed)


class _CausalAttention(torch.autograd.Function):
    """The weights stay for the way back; scores do not, and nothing is as large as T times T."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, dropout: float) -> Tensor:
        B, T, _, H, D = qkv.shape
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, B * H, T, D)
        q = q / math.sqrt(D)
        mixed = torch.empty_like(q)
        later = torch.full((BLOCK, BLOCK), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
        saved: list[Tensor] = []
        with torch.autocast(qkv.device.type, enabled=False):
            for start in range(0, T, BLOCK):
                stop = min(start + BLOCK, T)
                scores = q[:, start:stop] @ k[:, :stop].mT  # BH, block, tokens so far
                scores[:, :, start:] += later[: stop - start, : stop - start]
                weights = scores.softmax(-1)
                saved.append(weights)
                if dropout:
                    kept = torch.empty_like(weights).bernoulli_(1 - dropout)
                    saved.append(kept)
                    weights = weights * kept
                torch.bmm(weights, v[:, :stop], out=mixed[:, start:stop])
        mixed /= 1 - dropout
        ctx.save_for_backward(q, k, v, mixed, *saved)
        ctx.dropout, ctx.B = dropout, B
        return mixed.view(B, H, T, D).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor, None]:
        q, k, v, mixed, *saved = ctx.saved_tensors
        BH, T, D = q.shape
        dy = d_mixed[0].transpose(1, 2).reshape(BH, T, D)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # What softmax takes from the derivative by each weight is the same for a query's whole row
        # and known from the outcome (Dao et al. 2022, appendix B).
        common = (dy * mixed).sum(-1, keepdim=True)
        dy = dy / (1 - ctx.dropout)
        blocks = iter(saved)
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            here, so_far = slice(start, stop), slice(stop)
            weights = next(blocks)
            d_weights = dy[:, here] @ v[:, so_far].mT
            used = weights
            if ctx.dropout:
                kept = next(blocks)
                used, d_weights = weights * kept, d_weights.mul_(kept)
            dv[:, so_far].baddbmm_(used.mT, dy[:, here])
            d_scores = d_weights.sub_(common[:, here]).mul_(weights)
            torch.bmm(d_scores, k[:, so_far], out=dq[:, here])
            dk[:, so_far].baddbmm_(d_scores.mT, q[:, here])
        dq /= math.sqrt(D)
        d_qkv = q.new_empty(ctx.B, T, 3, BH // ctx.B, D)
        for index, part in enumerate((dq, dk, dv)):
            d_qkv[:, :, index] = part.view(ctx.B, -1, T, D).transpose(1, 2)
        return d_qkv, None
