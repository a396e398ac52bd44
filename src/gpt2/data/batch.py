"""A batch of token ids: all that the trainer ever sees, in pretraining as in finetuning."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Target of a position that carries no loss (PyTorch's own default)."""


class Batch(NamedTuple):
    """``targets[b, t]`` is the token after ``inputs[b, : t + 1]``; both ``(B, T)`` int64.

    Texts of unequal length stand end to end, in one row without padding: B = 1.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    """Tokens of each text in the one row, always on the CPU; None: every row is a text."""

    def to(self, device: torch.device) -> Self:
        """The same batch there; the lengths stay where they are."""
        inputs, targets = (t.to(device, non_blocking=True) for t in (self.inputs, self.targets))
        return self._replace(inputs=inputs, targets=targets)
