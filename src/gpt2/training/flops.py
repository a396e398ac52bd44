"""FLOPs of a training step, the speed of this machine, and the time that follows from both.

FLOPs are counted as in Chowdhery et al. (2022), appendix B. Times are rough estimates for a machine
that is otherwise idle.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2.core.device import Runtime
from gpt2.model.config import GPT2Config

SUMS_OF_CHANNEL, SUMS_OF_ENTRY = 125, 10
"""Time of a token besides its matrix products (norms, GELU, softmax, copies, overhead of small
products), in units of `Speed.sum`: for each channel of each layer, and for each entry of the
vocabulary if the token has a target. Measured on one thread of an Intel Xeon with 4 layers of 256
channels and 4,096 entries: 72 to 85 microseconds in bfloat16, float32, and float32 limited to AVX2;
these values give 73. Two threads of an AMD EPYC in bfloat16, from 256 channels to 124M parameters,
are estimated within 7 %."""
MUON_EFFICIENCY = 0.9
"""Fraction of the product rate that Muon's update reaches, whose products are square: 0.85 to 0.96
were measured from 256 to 512 channels."""
CALLS, CALLS_OF_LAYER, CALLS_OF_MUON = 20, 18, 3
"""Constant time of a step, in small operations: once, for each layer of each micro-batch, and for
each matrix that Muon updates. With 16 channels, 16 to 25 were measured for a layer and 1 to 4 for a
matrix."""


@dataclass(frozen=True)
class Speed:
    """How fast a machine computes."""

    products: float
    """FLOP/s of the largest matrix product of a block and its two gradients."""
    sum: float
    """Seconds for each element when two large arrays are added."""
    call: float
    """Seconds of one tiny operation and its gradient."""


def block_matrices(config: GPT2Config) -> int:
    """Entries of the four matrices of a block: attention 4 C², MLP 8 C² in GPT-2."""
    return 4 * config.n_embd**2 + 2 * config.n_embd * config.mlp_width


def token_flops(config: GPT2Config, length: float, counted: float = 1.0) -> float:
    """FLOPs of training on one token of a sequence of ``length`` tokens.

    ``counted``: the fraction of tokens that have a target.
    """
    C, L = config.n_embd, config.n_layer
    products = 6 * block_matrices(config) * L
    return products + 12 * L * C * length + 6 * config.vocab_size * C * counted


def recomputed_flops(config: GPT2Config, length: float) -> float:
    """FLOPs that `activation_checkpointing` adds for a token: a second forward pass of the blocks,
    without the last product of each, whose result is not needed."""
    C, L = config.n_embd, config.n_layer
    all_but_last = block_matrices(config) - C * config.mlp_width
    return 2 * all_but_last * L + 4 * L * C * length


def muon_flops(config: GPT2Config, dtype: torch.dtype) -> float:
    """FLOPs of one update by Muon.

    For a matrix of m times n, five Newton-Schulz iterations take 5 (4m²n + 2m³), or 34m³ + 4m²n if
    only square matrices are iterated (see `optim.orthogonalise`): 280 C³ or 176 C³ for the four
    matrices of a block in GPT-2.
    """
    C, inner = config.n_embd, config.mlp_width

    def update(*shape: int) -> int:
        m, n = min(shape), max(shape)
        if m < n and dtype != torch.bfloat16:
            return 34 * m**3 + 4 * m**2 * n
        return 5 * (4 * m**2 * n + 2 * m**3)

    matrices = ((C, 3 * C), (C, C), (C, inner), (inner, C))
    return float(config.n_layer * sum(update(*shape) for shape in matrices))


def steps_seconds(
    config: GPT2Config,
    speed: Speed,
    *,
    flops: float,
    tokens: float,
    counted: float,
    steps: int,
    passes: int,
    muon: float,
) -> float:
    """Seconds of ``steps`` optimizer steps.

    Args:
        flops: FLOPs of all steps, without Muon's updates.
        tokens: input tokens of all steps.
        counted: those of them that have a target.
        steps: optimizer steps.
        passes: micro-batches of all steps, each with one forward and backward pass.
        muon: FLOPs of one update by Muon; 0 without it.
    """
    C, L, V = config.n_embd, config.n_layer, config.vocab_size
    sums = tokens * SUMS_OF_CHANNEL * L * C + counted * SUMS_OF_ENTRY * V
    calls = CALLS * steps + CALLS_OF_LAYER * L * passes
    if muon:
        flops += steps * muon / MUON_EFFICIENCY
        calls += CALLS_OF_MUON * 4 * L * steps
    return flops / speed.products + sums * speed.sum + calls * speed.call


def measured_speed(runtime: Runtime, width: int) -> Speed:
    """Measure the speed of this machine now, in at most 0.3 s if the dtype is not emulated.

    No random number is drawn from the generators that training uses.
    """
    return Speed(measured_rate(runtime, width), _measured_sum(runtime), _measured_call(runtime))


def measured_rate(
    runtime: Runtime, width: int, rows: int = 2048, seconds: float = 0.2, often: int = 12
) -> float:
    """FLOP/s of the largest product of a block and its gradients: ``rows`` tokens, C = ``width``.

    The best of ``often`` measurements, or of as many as fit into ``seconds``; slow machines use
    fewer rows.
    """
    generator = torch.Generator(runtime.device).manual_seed(0)

    # All rows are equal: random numbers would take longer than the products.
    def matrix(n: int, columns: int) -> Tensor:
        row = torch.randn(columns, generator=generator, device=runtime.device)
        return row.to(runtime.dtype).repeat(n, 1)

    left, right, out = matrix(rows, width), matrix(width, 4 * width), matrix(rows, 4 * width)

    def products(n: int) -> None:
        left[:n] @ right
        out[:n] @ right.t()
        left[:n].t() @ out[:n]

    end, best, n, times = time.perf_counter() + seconds, 0.0, min(16, rows), 0
    while times < often:
        took = timed(partial(products, n), runtime)
        best = max(best, 3 * 2 * n * width * 4 * width / took)
        times += n == rows
        left_over, more = end - time.perf_counter(), min(rows, 4 * n)
        if took > left_over:
            break
        if took * more / n <= left_over:
            n = more
    return best


def timed(action: Callable[[], object], runtime: Runtime) -> float:
    """Seconds until the device has finished ``action``."""
    started = time.perf_counter()
    action()
    if runtime.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def _measured_sum(runtime: Runtime, size: int = 2**21, often: int = 8) -> float:
    left, right, out = (torch.ones(size, device=runtime.device) for _ in range(3))
    best = min(timed(partial(torch.add, left, right, out=out), runtime) for _ in range(often))
    return best / size


def _measured_call(runtime: Runtime, often: int = 20) -> float:
    weight = torch.zeros(1, 1, device=runtime.device, requires_grad=True)
    row = torch.zeros(1, 1, device=runtime.device)

    def call() -> None:
        with runtime.autocast():
            torch.autograd.grad(F.linear(row, weight).sum(), weight)

    return min(timed(call, runtime) for _ in range(often))
