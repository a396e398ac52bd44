"""A checkpoint of another program, and a reference implementation of GPT-2 to check its import.

The formulas are those of Radford et al. 2019.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2.model.config import GPT2Config


@dataclass(frozen=True)
class Checkpoint:
    """Shape and tensors of a model, under the names of `GPT2`; matrices are ``(out, in)``."""

    program: str
    """The program that wrote it."""
    config: GPT2Config
    tensors: dict[str, Tensor]
    """As in the file. If there are no biases at all, they count as 0."""


@torch.no_grad()
def plain_logits(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """``(T,)`` ids to ``(T, V)`` logits, computed from the file's tensors without `GPT2`.

    An import is checked against these logits.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    (T,), C, H = ids.shape, config.n_embd, config.n_head
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)  # T T: later tokens

    def weight(name: str) -> Tensor:
        return tensors[f"{name}.weight"].float()

    def bias(name: str) -> Tensor | None:
        found = tensors.get(f"{name}.bias")
        return None if found is None else found.float()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weight(name), bias(name))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (C,), weight(name), bias(name))

    x = weight("wte")[ids] + weight("wpe")[:T]  # T C
    for layer in range(config.n_layer):
        block = f"h.{layer}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")  # T 3C
        q, k, v = (part.view(T, H, C // H).transpose(0, 1) for part in qkv.chunk(3, 1))  # H T D
        scores = (q @ k.mT / math.sqrt(C // H)).masked_fill(hidden, -math.inf)  # H T T
        y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, C)
        x = x + linear(y, f"{block}.attn.c_proj")
        inner = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(F.gelu(inner, approximate=config.gelu), f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ weight("wte" if config.tie_word_embeddings else "lm_head").T
