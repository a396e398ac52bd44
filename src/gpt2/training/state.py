"""The state of training: everything that an optimizer step changes, and a checkpoint holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from gpt2.core.device import Runtime
from gpt2.model.gpt2 import GPT2
from gpt2.training.checkpoint import pack, unpack
from gpt2.training.history import History
from gpt2.training.optim import OptimizerParams, make_optimizers

BEST = "best/"
"""Prefix of the best weights in a checkpoint."""


@dataclass
class TrainState:
    """A model in training, its optimizers, and what the run has recorded."""

    model: GPT2
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    """Optimizer steps completed."""
    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best evaluation, if `keep_best` was called."""

    @classmethod
    def create(cls, model: GPT2, params: OptimizerParams, runtime: Runtime) -> Self:
        """The state before the first step, with new optimizers."""
        optimizers = make_optimizers(model, params, runtime.dtype)
        scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        return cls(model, optimizers, scaler)

    @property
    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.model.parameters())

    def keep_best(self) -> None:
        """Keep a copy of the current weights as the best so far."""
        self.best = {f"{BEST}{name}": t.clone() for name, t in self.model.state_dict().items()}

    def load_best(self) -> None:
        """Load the best weights into the model."""
        self.model.load_state_dict({name.removeprefix(BEST): t for name, t in self.best.items()})

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Values and tensors for a checkpoint."""
        values = {"history": vars(self.history), "scaler": self.scaler.state_dict()}
        return values, {**pack(self.model, self.optimizers), **self.best}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load the values and tensors of a checkpoint, random states included."""
        unpack(tensors, self.model, self.optimizers)
        self.scaler.load_state_dict(values["scaler"])
        self.step, self.history = values["step"], History(**values["history"])
        self.best = {name: t for name, t in tensors.items() if name.startswith(BEST)}
        # The evaluation at this step is repeated, in case the checkpoint already holds it.
        self.history.evaluations = [e for e in self.history.evaluations if e["step"] < self.step]
