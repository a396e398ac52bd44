"""How much arithmetic a training step is, how fast this machine computes, and what follows.

Arithmetic is counted as in Chowdhery et al. (2022), appendix B. Times are those of a machine
that does nothing else, and "about".
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2.device import Runtime
from gpt2.model import GPT2Config

EFFICIENCY = {
    torch.bfloat16: {128: 0.65, 256: 0.75, 512: 0.8, 768: 0.82},
    torch.float32: {128: 0.7, 256: 0.8, 512: 0.86},
}
"""What a training step without Muon's update reaches of the measured rate, by format and width.
Small products and all that is not a product weigh more in a narrow model, and more where products
are fast. One thread of an Intel Xeon with 128, 256, 512 and 768 channels: 0.71, 0.83, 0.86, 0.79 in
bfloat16 (the last with 50,257 entries); 0.71, 0.80, 0.86 in float32, held to AVX2. Two of an AMD
EPYC in bfloat16: 0.63 to 0.70 with 256, 0.81 with 768."""
RAGGED = 0.9
"""Of that, where texts of unequal length stand end to end: in both formats."""
MUON_EFFICIENCY = 0.9
"""What Muon's update reaches, whose products are square: 0.89 to 0.92 from 256 to 512 channels."""
CALLS, CALLS_OF_LAYER, CALLS_OF_MUON = 30, 20, 3
"""What a step takes whatever its size, in small operations: once, for each layer of each
micro-batch, and for each matrix that Muon updates. With 16 channels 24 to 34, 16 to 25 and 1 to 4
were measured."""


@dataclass(frozen=True)
class Speed:
    """How fast a machine computes."""

    products: float
    """FLOP/s of a block's largest product and its two gradients."""
    call: float
    """Seconds of one small operation and its gradient: next to no arithmetic."""


def token_flops(config: GPT2Config, length: float, counted: float = 1.0) -> float:
    """Floating-point operations of training on one token of a text of ``length`` tokens; of
    ``counted`` of the tokens, the successor is learned."""
    C, L = config.n_embd, config.n_layer
    return 6 * 12 * L * C**2 + 12 * L * C * length + 6 * config.vocab_size * C * counted


def recomputed_flops(config: GPT2Config, length: float) -> float:
    """What `activation_checkpointing` adds to a token: the blocks forward once more, but for the
    last product of each, whose result is not asked for."""
    C, L = config.n_embd, config.n_layer
    return 2 * 8 * L * C**2 + 4 * L * C * length


def muon_flops(config: GPT2Config) -> float:
    """Floating-point operations of one update by Muon: five iterations of Newton and Schulz take 5
    times 4m²n + 2m³ for a matrix of m times n, so 280 C³ for the four of a block."""
    return float(280 * config.n_layer * config.n_embd**3)


def steps_seconds(
    flops: float,
    config: GPT2Config,
    dtype: torch.dtype,
    speed: Speed,
    *,
    steps: int,
    passes: int,
    muon: bool,
    ragged: bool,
) -> float:
    """Seconds of ``steps`` optimizer steps that take ``flops`` in all, Muon's update not counted.

    ``passes``: micro-batches, once forward and back, in all of them; ``ragged``: each holds texts
    of unequal length.
    """
    L = config.n_layer
    shares = EFFICIENCY.get(dtype, EFFICIENCY[torch.bfloat16])
    share = float(np.interp(config.n_embd, [*shares], [*shares.values()]))
    seconds = flops / (speed.products * share * (RAGGED if ragged else 1))
    calls = CALLS * steps + CALLS_OF_LAYER * L * passes
    if muon:
        seconds += steps * muon_flops(config) / (speed.products * MUON_EFFICIENCY)
        calls += CALLS_OF_MUON * 4 * L * steps
    return seconds + calls * speed.call


def measured_speed(runtime: Runtime, width: int) -> Speed:
    """Of this machine, now: at most 0.3 s where products are not emulated. No random number is
    drawn from the generators that training uses."""
    return Speed(measured_rate(runtime, width), _measured_call(runtime))


def measured_rate(
    runtime: Runtime, width: int, rows: int = 2048, seconds: float = 0.2, often: int = 12
) -> float:
    """FLOP/s of a block's largest product and its two gradients: ``rows`` tokens, C = ``width``.

    The best of ``often``, or of as many as ``seconds`` allow: less rows where products are slow.
    """
    generator = torch.Generator(runtime.device).manual_seed(0)

    # Its rows are alike: random numbers would take longer than the products.
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
    """Seconds until the device is done with ``action``."""
    started = time.perf_counter()
    action()
    if runtime.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def _measured_call(runtime: Runtime, often: int = 20) -> float:
    weight = torch.zeros(1, 1, device=runtime.device, requires_grad=True)
    row = torch.zeros(1, 1, device=runtime.device)

    def call() -> None:
        with runtime.autocast():
            torch.autograd.grad(F.linear(row, weight).sum(), weight)

    return min(timed(call, runtime) for _ in range(often))
