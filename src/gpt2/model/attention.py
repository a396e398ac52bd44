"""Causal attention (Vaswani et al. 2017, 3.2.1; tutorial part 2).

On a GPU PyTorch does it. Its kernel for a CPU is slow at the derivative, and slower with dropout:
here queries go in blocks, each of which looks only at the keys up to its own end, in products large
enough to be fast.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128
"""Queries in a block: fewer waste less on what is masked, more make larger products."""
STEP = 64
"""Texts of unequal length are padded to multiples of it, here only, and those of one width go side
by side: a product of a shape that a CPU has not met yet costs more than some padding."""


def causal_attention(qkv: Tensor, dropout: float = 0.0, lengths: Tensor | None = None) -> Tensor:
    """For each token the mean of the values so far, weighted by its query's likeness to their keys.

    Shapes: B sequences, T tokens of each, H heads of D channels.

    Args:
        qkv: ``(B, T, 3, H, D)``: queries, keys and values, in one number format.
        dropout: probability of leaving out a weight.
        lengths: of texts that stand end to end in the one sequence and do not see each other;
            ``(texts,)`` on the CPU, which plans by them; their sum is T.

    Returns:
        ``(B, T, H, D)``.
    """
    if qkv.device.type != "cpu":
        return _fused(qkv, dropout, lengths)
    return _in_blocks(qkv, dropout, lengths)


def keep_from_compiler() -> None:
    """To be called before a model is compiled: on a CPU attention has nothing to fuse, and many
    shapes, and so have texts of unequal length on any device. A decorator would load the compiler,
    which takes a second, into every process."""
    global _in_blocks, _of_texts
    _in_blocks = torch.compiler.disable(_in_blocks)  # type: ignore[no-untyped-call]  # torch has no type
    _of_texts = torch.compiler.disable(_of_texts)  # type: ignore[no-untyped-call]  # torch has no type


def _in_blocks(qkv: Tensor, dropout: float, lengths: Tensor | None) -> Tensor:
    B, T, _, H, D = qkv.shape
    every = _Group(T, list(range(0, B * T, T)), [T] * B)
    groups = [every] if lengths is None else _by_width(lengths)
    mixed = _CausalAttention.apply(  # type: ignore[no-untyped-call]  # torch has no type
        qkv.flatten(0, 1), dropout, groups
    )
    return cast(Tensor, mixed).view(B, T, H, D)


def _fused(qkv: Tensor, dropout: float, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        return _of_texts(qkv[0], dropout, lengths)[None]
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each B H T D
    mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return mixed.transpose(1, 2)


def _of_texts(qkv: Tensor, dropout: float, lengths: Tensor) -> Tensor:
    """``(T, 3, H, D)`` of texts end to end to ``(T, H, D)``."""
    return _varlen(qkv, lengths) if _flash(qkv, dropout) else _padded(qkv, dropout, lengths)


def _flash(qkv: Tensor, dropout: float) -> bool:
    """Whether FlashAttention's kernel for texts of unequal length takes this."""
    return (
        qkv.device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
        and qkv.dtype in (torch.float16, torch.bfloat16)
        and qkv.shape[-1] in range(8, 257, 8)
        and not dropout
    )


def _varlen(qkv: Tensor, lengths: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # loads the compiler

    ends = F.pad(lengths.cumsum(0), (1, 0)).to(qkv.device, torch.int32)
    longest = int(lengths.max())
    q, k, v = qkv.unbind(1)
    mixed = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0))
    return cast(Tensor, mixed)


def _padded(qkv: Tensor, dropout: float, lengths: Tensor) -> Tensor:
    """With any device, format and dropout: texts of about one length side by side."""
    T, _, H, D = qkv.shape
    rows = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, 1))  # row T is what stands for padding
    places: list[Tensor] = []
    mixed: list[Tensor] = []
    for group in _by_width(lengths):
        here = torch.arange(group.width)
        starts, ends = torch.tensor(group.starts)[:, None], torch.tensor(group.lengths)[:, None]
        place = (starts + here).where(here < ends, T).flatten().to(qkv.device)  # G * W
        texts = rows.index_select(0, place).view(-1, group.width, 3, H, D)
        q, k, v = texts.permute(2, 0, 3, 1, 4)  # each G H W D
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        places.append(place)
        mixed.append(y.transpose(1, 2).flatten(0, 1))
    return rows.new_zeros(T + 1, H, D).index_copy(0, torch.cat(places), torch.cat(mixed))[:T]


class _Group(NamedTuple):
    """G texts that are computed side by side, as if each had W tokens: what is padded comes last,
    so no text looks at it."""

    width: int
    starts: list[int]
    lengths: list[int]

    def is_all_of(self, flat: Tensor) -> bool:
        """Whether there are no other texts and none is padded: then one copy moves them all."""
        return sum(self.lengths) == len(self.lengths) * self.width == len(flat)

    def take(self, flat: Tensor) -> Tensor:
        """``(N, P, H, D)`` of all texts end to end to ``(P, G * H, W, D)`` of these."""
        _, P, H, D = flat.shape
        if self.is_all_of(flat):
            rows = flat.view(-1, self.width, P, H, D)
            return rows.permute(2, 0, 3, 1, 4).reshape(P, -1, self.width, D)
        taken = flat.new_zeros(P, len(self.starts), H, self.width, D)
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            taken[:, row, :, :length] = flat[start : start + length].permute(1, 2, 0, 3)
        return taken.flatten(1, 2)

    def put(self, flat: Tensor, part: int, computed: Tensor) -> None:
        """``(G * H, W, D)`` of these to their places in ``(N, P, H, D)``."""
        _, _, H, D = flat.shape
        rows = computed.view(-1, H, self.width, D).transpose(1, 2)  # G W H D
        if self.is_all_of(flat):
            flat.view(-1, self.width, *flat.shape[1:])[:, :, part] = rows
            return
        for row, start, length in zip(rows, self.starts, self.lengths, strict=True):
            flat[start : start + length, part] = row[:length]


def _by_width(lengths: Tensor) -> list[_Group]:
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
    """The weights stay for the way back; scores do not, and nothing is as large as T times T."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, dropout: float, groups: list[_Group]) -> Tensor:
        N, _, H, D = qkv.shape
        mixed = qkv.new_empty(N, 1, H, D)
        saved: list[Tensor] = []
        for group in groups:
            q, k, v = group.take(qkv)
            needed = _forward(q, k, v, dropout)
            group.put(mixed, 0, needed[3])
            saved += needed
        ctx.save_for_backward(*saved)
        ctx.dropout, ctx.groups, ctx.shape = dropout, groups, qkv.shape
        return mixed[:, 0]

    @staticmethod
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor, None, None]:
        saved = iter(ctx.saved_tensors)
        d_qkv = d_mixed[0].new_empty(ctx.shape)
        for group in ctx.groups:
            (dy,) = group.take(d_mixed[0][:, None])
            for part, derivative in enumerate(_backward(saved, dy, ctx.dropout)):
                group.put(d_qkv, part, derivative)
        return d_qkv, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> list[Tensor]:
    """Each ``(rows, T, D)``. Gives what the derivative needs: q, k, v, the result, and for each
    block its weights and, with dropout, which of them are kept."""
    T, D = q.shape[1:]
    q = q / math.sqrt(D)
    mixed = torch.empty_like(q)
    later = torch.full((BLOCK, BLOCK), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
    saved = [q, k, v, mixed]
    with torch.autocast(q.device.type, enabled=False):
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            scores = q[:, start:stop] @ k[:, :stop].mT  # rows, block, tokens so far
            scores[:, :, start:] += later[: stop - start, : stop - start]
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
    """The derivatives by q, k and v, from ``dy`` ``(rows, T, D)`` by the result."""
    q, k, v, mixed = (next(saved) for _ in range(4))
    T, D = q.shape[1:]
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    # What softmax takes from the derivative by each weight is the same for a query's whole row
    # and known from the outcome (Dao et al. 2022, appendix B).
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
