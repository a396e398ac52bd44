"""What a gradient does to the weights: AdamW, Muon, and the learning rate over time.

AdamW after Loshchilov and Hutter (2019); Muon after Jordan et al. (2024), for matrices only.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from gpt2.params import Fraction, NonNegative, Params


class OptimizerParams(Params):
    """How weights are updated."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the blocks' matrices, AdamW for the rest."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate of AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate of Muon."""
    min_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The learning rate at the last step, as a fraction of the peak; 1: constant after warmup."""
    warmup_steps: NonNegative = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only, never on biases and norms."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest L2 norm of the whole gradient; null: any."""


def make_optimizers(model: nn.Module, params: OptimizerParams) -> list[torch.optim.Optimizer]:
    """One AdamW, or a Muon and an AdamW. Each group keeps its peak as ``peak_lr``.

    Decay is on tensors of two and more dimensions: the matrices and the embeddings.
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
            torch.optim.Muon(
                [names[name] for name in sorted(by_muon)],
                lr=params.muon_lr,
                weight_decay=params.weight_decay,
            )
        )
    for group in _groups(optimizers):
        group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(step: int, steps: int, warmup_steps: int, min_lr_fraction: float) -> float:
    """Part of the peak learning rate at ``step``: a line up, then half a cosine down."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return min_lr_fraction + (1 - min_lr_fraction) * 0.5 * (
        1 + math.cos(math.pi * min(1, progress))
    )


def set_lr(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its peak."""
    for group in _groups(optimizers):
        group["lr"] = group["peak_lr"] * factor


def _groups(optimizers: Iterable[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
