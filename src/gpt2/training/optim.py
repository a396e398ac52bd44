"""Optimizers and learning rate schedule.

AdamW after Loshchilov and Hutter (2019); Muon after Jordan et al. (2024), for matrices only.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gpt2.core.params import Fraction, NonNegative, Params, Positive

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the Newton-Schulz iteration in Muon."""


class OptimizerParams(Params):
    """How weights are updated."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices of the blocks, AdamW for the rest."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate of AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate of Muon."""
    min_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The learning rate at the last step, as a fraction of the peak; 1: constant after warmup."""
    warmup_steps: NonNegative = 0
    decay_steps: Positive | None = None
    """Steps at the end in which the learning rate falls; before it is constant (warmup, stable,
    decay: Hu et al. 2024). null: all steps after warmup."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only, never on biases and norms."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum L2 norm of the gradient of all weights; null: no clipping."""


class Muon(torch.optim.Optimizer):
    """Momentum with nearly orthogonal updates, so that all directions have the same size.

    `torch.optim.Muon` computes the same, but always in bfloat16. A processor without bfloat16
    emulates it, 50 times slower than float32. Here matrix products use ``dtype``.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
        momentum: float = 0.95,
    ) -> None:
        """``matrices`` are ``(out, in)``; ``dtype`` is bfloat16 or float32."""
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: never asked
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                mean: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = orthogonalise(matrix.grad.lerp(mean, momentum), self.dtype)  # Nesterov's
                rows, columns = matrix.shape
                matrix.mul_(1 - lr * decay)
                matrix.add_(update, alpha=-lr * math.sqrt(max(1, rows / columns)))


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly ``U @ V.T`` for ``matrix = U @ S @ V.T``: all singular values come close to 1.

    Newton-Schulz iteration of the fifth order with the coefficients of Jordan et al. (2024): small
    singular values grow fast, and all end between 0.7 and 1.2. Matrix products use ``dtype``.
    """
    tall = len(matrix) > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)  # so that no singular value is above 1
    wide = x.shape[1] > len(x)
    x = _by_square_matrices(x) if wide and dtype != torch.bfloat16 else _newton_schulz(x)
    return x.T if tall else x


def _newton_schulz(x: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_square_matrices(x: Tensor) -> Tensor:
    """`_newton_schulz` for a wide x, with fewer FLOPs: 50 C^3 instead of 90 C^3 for C times 4 C.

    Every iteration multiplies x by a polynomial of its Gram matrix. So only these polynomials are
    iterated, and x is multiplied once. Squares of small singular values need float32.
    """
    a, b, c = COEFFICIENTS

    def polynomial(gram: Tensor) -> Tensor:
        found = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        found.diagonal().add_(a)
        return found

    gram = x @ x.T
    product = factor = polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = polynomial(gram)
        product = factor @ product
    return product @ x


def make_optimizers(
    model: nn.Module, params: OptimizerParams, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """One AdamW, or an AdamW and a Muon. Each parameter group has its peak rate as ``peak_lr``.

    Weight decay applies to tensors of two and more dimensions: matrices and embeddings.

    ``dtype`` is that of the runtime's matrix products. Muon uses float32 instead of float16, whose
    range is too small.
    """
    names = dict(model.named_parameters())
    in_block = {name for name in names if ".h." in f".{name}" and names[name].ndim == 2}
    by_muon = in_block if params.optimizer == "muon" else set()
    rest = {name: tensor for name, tensor in names.items() if name not in by_muon}
    groups = [
        {"params": [t for t in rest.values() if t.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [t for t in rest.values() if t.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=params.lr, betas=(params.beta1, params.beta2), fused=True)
    ]
    if by_muon:
        optimizers.append(
            Muon(
                [names[name] for name in sorted(by_muon)],
                lr=params.muon_lr,
                weight_decay=params.weight_decay,
                dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
            )
        )
    for group in _groups(optimizers):
        group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(
    step: int,
    steps: int,
    warmup_steps: int,
    min_lr_fraction: float,
    decay_steps: int | None = None,
) -> float:
    """The learning rate at ``step`` as a fraction of its peak.

    Linear warmup, then constant until ``decay_steps`` before the end (None: no constant part), then
    cosine decay to ``min_lr_fraction``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    begin = _decay_begin(steps, warmup_steps, decay_steps)
    progress = max(0, step - begin) / max(1, steps - 1 - begin)
    return min_lr_fraction + (1 - min_lr_fraction) * 0.5 * (
        1 + math.cos(math.pi * min(1, progress))
    )


def stable_steps(steps: int, params: OptimizerParams) -> int:
    """Number of first steps whose learning rates are the same in a run of more than ``steps``."""
    if params.min_lr_fraction == 1:
        return steps
    return _decay_begin(steps, params.warmup_steps, params.decay_steps)


def _decay_begin(steps: int, warmup_steps: int, decay_steps: int | None) -> int:
    return warmup_steps if decay_steps is None else max(warmup_steps, steps - decay_steps)


def set_lr(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its peak."""
    for group in _groups(optimizers):
        group["lr"] = group["peak_lr"] * factor


def _groups(optimizers: Iterable[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
