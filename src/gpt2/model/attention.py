"""Causal attention for training (Vaswani et al. 2017, 3.2.1; tutorial part 2).

A GPU uses PyTorch's `scaled_dot_product_attention`. Its CPU kernel has a slow backward pass, and is
slower still with dropout. So on a CPU queries are computed in blocks: each block reads only the
keys up to its own end, in matrix products that are large enough to be fast.

Shapes: B sequences, T tokens of each, H heads of D channels; packed sequences are one row, B = 1.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128
"""Queries in a block: smaller blocks waste less on masked scores, larger ones make larger products.
"""
STEP = 64
"""Packed sequences are padded to multiples of this length, inside this module only, and sequences
of equal padded length are computed as one batch. On a CPU, a product of a new shape costs more than
some padding."""

Attention = Callable[[Tensor, float, Tensor | None], Tensor]
"""`causal_attention`, or a function like it."""


def causal_attention(qkv: Tensor, dropout: float = 0.0, lengths: Tensor | None = None) -> Tensor:
    """Softmax attention: for each token a weighted mean of the values up to it.

    Args:
        qkv: ``(B, T, 3, H, D)``: queries, keys and values, all of one dtype.
        dropout: probability of dropping an attention weight.
        lengths: lengths of packed sequences, which do not attend to each other: ``(sequences,)``,
            on the CPU; their sum is T.

    Returns:
        ``(B, T, H, D)``.
    """
    if qkv.device.type != "cpu":
        return _fused(qkv, dropout, lengths)
    return _in_blocks(qkv, dropout, lengths)


def compilable_attention() -> Attention:
    """`causal_attention` for a model that is compiled.

    The compiler does not trace it on a CPU, where there is nothing to fuse, nor for packed
    sequences, whose shapes change with every batch. A function instead of a decorator, because
    ``torch.compiler.disable`` imports the compiler, which takes a second.
    """
    untraced: Attention = torch.compiler.disable(causal_attention)  # type: ignore[no-untyped-call]  # torch has no type

    def attention(qkv: Tensor, dropout: float, lengths: Tensor | None) -> Tensor:
        if qkv.device.type == "cpu" or lengths is not None:
            return untraced(qkv, dropout, lengths)
        return causal_attention(qkv, dropout, lengths)

    return attention


def _fused(qkv: Tensor, dropout: float, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        return _packed(qkv[0], dropout, lengths)[None]
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each B H T D
    mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return mixed.transpose(1, 2)


def _packed(qkv: Tensor, dropout: float, lengths: Tensor) -> Tensor:
    """``(T, 3, H, D)`` of packed sequences to ``(T, H, D)``."""
    return _varlen(qkv, lengths) if _has_varlen(qkv, dropout) else _padded(qkv, dropout, lengths)


def _has_varlen(qkv: Tensor, dropout: float) -> bool:
    """Whether FlashAttention's kernel for packed sequences supports these tensors."""
    return (
        qkv.device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
        and qkv.dtype in (torch.float16, torch.bfloat16)
        and qkv.shape[-1] in range(8, 257, 8)
        and not dropout
    )


def _varlen(qkv: Tensor, lengths: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # imports the compiler

    ends = F.pad(lengths.cumsum(0), (1, 0)).to(qkv.device, torch.int32)
    longest = int(lengths.max())
    q, k, v = qkv.unbind(1)
    mixed = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0))
    return cast(Tensor, mixed)


def _padded(qkv: Tensor, dropout: float, lengths: Tensor) -> Tensor:
    """Packed sequences for any device, dtype and dropout: those of similar length as one batch."""
    T, _, H, D = qkv.shape
    rows = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, 1))  # row T stands for padding
    indices: list[Tensor] = []
    mixed: list[Tensor] = []
    for group in _by_width(lengths):
        offsets = torch.arange(group.width)
        starts, ends = torch.tensor(group.starts)[:, None], torch.tensor(group.lengths)[:, None]
        index = (starts + offsets).where(offsets < ends, T).flatten().to(qkv.device)  # G * W
        sequences = rows.index_select(0, index).view(-1, group.width, 3, H, D)
        q, k, v = sequences.permute(2, 0, 3, 1, 4)  # each G H W D
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        indices.append(index)
        mixed.append(y.transpose(1, 2).flatten(0, 1))
    return rows.new_zeros(T + 1, H, D).index_copy(0, torch.cat(indices), torch.cat(mixed))[:T]


def _in_blocks(qkv: Tensor, dropout: float, lengths: Tensor | None) -> Tensor:
    B, T, _, H, D = qkv.shape
    whole = _Group(T, list(range(0, B * T, T)), [T] * B)
    groups = [whole] if lengths is None else _by_width(lengths)
    mixed = _CausalAttention.apply(  # type: ignore[no-untyped-call]  # torch has no type
        qkv.flatten(0, 1), dropout, groups
    )
    return cast(Tensor, mixed).view(B, T, H, D)


class _Group(NamedTuple):
    """G sequences that are computed as one batch of width W.

    Padding stands after the tokens of a sequence, so no token attends to it.
    """

    width: int
    starts: list[int]
    lengths: list[int]

    def covers(self, flat: Tensor) -> bool:
        """Whether ``flat`` holds these sequences only, without padding: then one copy is enough."""
        return sum(self.lengths) == len(self.lengths) * self.width == len(flat)

    def take(self, flat: Tensor) -> Tensor:
        """``(N, P, H, D)`` of all packed sequences to ``(P, G * H, W, D)`` of this group."""
        _, P, H, D = flat.shape
        if self.covers(flat):
            rows = flat.view(-1, self.width, P, H, D)
            return rows.permute(2, 0, 3, 1, 4).reshape(P, -1, self.width, D)
        taken = flat.new_zeros(P, len(self.starts), H, self.width, D)
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            taken[:, row, :, :length] = flat[start : start + length].permute(1, 2, 0, 3)
        return taken.flatten(1, 2)

    def put(self, flat: Tensor, part: int, computed: Tensor) -> None:
        """Write ``(G * H, W, D)`` of this group into ``flat[:, part]``, ``(N, P, H, D)``."""
        _, _, H, D = flat.shape
        rows = computed.view(-1, H, self.width, D).transpose(1, 2)  # G W H D
        if self.covers(flat):
            flat.view(-1, self.width, *flat.shape[1:])[:, :, part] = rows
            return
        for row, start, length in zip(rows, self.starts, self.lengths, strict=True):
            flat[start : start + length, part] = row[:length]


def _by_width(lengths: Tensor) -> list[_Group]:
    """Group packed sequences by their padded length."""
    groups: dict[int, _Group] = {}
    start = 0
    for length in lengths.tolist():
        width = -(-length // STEP) * STEP
        group = groups.setdefault(width, _Group(width, [], []))
        group.starts.append(start)
        group.lengths.append(length)
        start += length
    return list(groups.values())


class _CausalAttention(torch.autograd.Function):
    """Attention in blocks. The backward pass needs the attention weights, which are saved; scores
    are not, and no tensor has T times T entries."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, dropout: float, groups: list[_Group]) -> Tensor:
        N, _, H, D = qkv.shape
        mixed = qkv.new_empty(N, 1, H, D)
        saved: list[Tensor] = []
        for group in groups:
            q, k, v = group.take(qkv)
            tensors = _forward(q, k, v, dropout)
            group.put(mixed, 0, tensors[3])
            saved += tensors
        ctx.save_for_backward(*saved)
        ctx.dropout, ctx.groups, ctx.shape = dropout, groups, qkv.shape
        return mixed[:, 0]

    @staticmethod
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor, None, None]:
        saved = iter(ctx.saved_tensors)
        d_qkv = d_mixed[0].new_empty(ctx.shape)
        for group in ctx.groups:
            (dy,) = group.take(d_mixed[0][:, None])
            for part, gradient in enumerate(_backward(saved, dy, ctx.dropout)):
                group.put(d_qkv, part, gradient)
        return d_qkv, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> list[Tensor]:
    """Attention for ``(rows, T, D)`` queries, keys and values.

    Returns:
        What the backward pass needs: q, k, v, the result, and for each block its weights and, with
        dropout, the mask of those that are kept.
    """
    T, D = q.shape[1:]
    q = q / math.sqrt(D)
    mixed = torch.empty_like(q)
    mask = torch.full((BLOCK, BLOCK), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
    saved = [q, k, v, mixed]
    with torch.autocast(q.device.type, enabled=False):
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            scores = q[:, start:stop] @ k[:, :stop].mT  # rows, block, tokens so far
            scores[:, :, start:] += mask[: stop - start, : stop - start]
            weights = scores.softmax(-1)
            saved.append(weights)
            if dropout:
                kept = torch.empty_like(weights).bernoulli_(1 - dropout)
                saved.append(kept)
                weights = weights * kept
            torch.bmm(weights, v[:, :stop], out=mixed[:, start:stop])
    mixed /= 1 - dropout
    return saved


def _backward(saved: Iterator[Tensor], dy: Tensor, dropout: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from ``dy``, the ``(rows, T, D)`` gradient of the result."""
    q, k, v, mixed = (next(saved) for _ in range(4))
    T, D = q.shape[1:]
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    # The backward pass of softmax subtracts one number per query, which follows from the result
    # (Dao et al. 2022, appendix B).
    common = (dy * mixed).sum(-1, keepdim=True)
    dy = dy / (1 - dropout)
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        here, so_far = slice(start, stop), slice(stop)
        weights = next(saved)
        d_weights = dy[:, here] @ v[:, so_far].mT
        used = weights
        if dropout:
            kept = next(saved)
            used, d_weights = weights * kept, d_weights.mul_(kept)
        dv[:, so_far].baddbmm_(used.mT, dy[:, here])
        d_scores = d_weights.sub_(common[:, here]).mul_(weights)
        torch.bmm(d_scores, k[:, so_far], out=dq[:, here])
        dk[:, so_far].baddbmm_(d_scores.mT, q[:, here])
    return dq.div_(math.sqrt(D)), dk, dv
