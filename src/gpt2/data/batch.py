"""A batch of token ids: what the trainer receives, both in pretraining and in finetuning."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Target of a position without loss (PyTorch's default)."""


class Batch(NamedTuple):
    """``targets[b, t]`` is the token after ``inputs[b, : t + 1]``; both ``(B, T)`` int64.

    Sequences of different lengths are packed into one row without padding: B = 1.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    """Length of each packed sequence, always on the CPU; None: every row is one sequence."""

    def to(self, device: torch.device) -> Self:
        """The batch on ``device``; the lengths stay on the CPU."""
        inputs, targets = (t.to(device, non_blocking=True) for t in (self.inputs, self.targets))
        return self._replace(inputs=inputs, targets=targets)
