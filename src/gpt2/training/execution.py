"""How a model is executed, with the same results: compiled, or with less memory."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from gpt2.core.device import Runtime
from gpt2.data.batch import Batch
from gpt2.model.attention import compilable_attention
from gpt2.model.gpt2 import GPT2, CausalSelfAttention
from gpt2.model.loss import fusable_chunk_loss
from gpt2.training.loss import loss_sum
from gpt2.training.params import TrainParams

log = logging.getLogger(__name__)

COMPILE_PAYS_AFTER = {"cuda": 200}
"""Optimizer steps from which `compile: auto` compiles. On a CPU compiling gains nothing."""

Loss = Callable[[GPT2, Batch], Tensor]
"""`loss_sum`, or a compiled form of it."""


def compiles(params: TrainParams, device: torch.device, steps: int) -> bool:
    """Whether the parameters ask for a compiler in a run of ``steps``."""
    if params.compile == "auto":
        return steps >= COMPILE_PAYS_AFTER.get(device.type, steps + 1)
    return params.compile


def choose_loss(model: GPT2, params: TrainParams, runtime: Runtime, steps: int) -> Loss:
    """`loss_sum`, compiled if the parameters say so and there is a compiler."""
    if not compiles(params, runtime.device, steps):
        return loss_sum
    if runtime.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        log.info("compile: no C++ compiler found; running eagerly")
        return loss_sum
    # On a CPU the chunks of the loss stay in the cache anyway.
    chunk_loss = torch.compile(fusable_chunk_loss) if runtime.device.type != "cpu" else None
    return partial(loss_sum, features_of=compiled_features(model), chunk_loss=chunk_loss)


def compiled_features(model: GPT2, backend: str | Callable[..., Any] = "inductor") -> Any:
    """`GPT2.features`, compiled; the model's attention becomes `compilable_attention`."""
    attention = compilable_attention()
    for module in model.modules():
        if isinstance(module, CausalSelfAttention):
            module.attention = attention
    return torch.compile(model.features, backend=backend)


def checkpoint_activations(model: GPT2) -> None:
    """Keep only the input of each block and recompute the rest in the backward pass."""
    for block in model.h:
        # In place, so that no parameter changes its name.
        block.forward = partial(recompute, block.forward, use_reentrant=False)
