"""Converts between the tensors of a GPT-2 checkpoint file and the parameters of `GPT2`.

Both have the same names. Only the matrices of the blocks are transposed: OpenAI's Conv1D stores
``(in, out)``, PyTorch's Linear ``(out, in)``.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2.core.errors import UserError

HEAD = "lm_head.weight"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MASKED = -9e3
"""Old checkpoints store the score of masked positions: -1e4 (-9984 in bfloat16), or less."""


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors in OpenAI's orientation. The function is its own inverse."""
    return {name: t.t() if _is_conv1d(name, t) else t for name, t in state.items()}


def from_openai(tensors: Mapping[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    """The model's tensors from a checkpoint file in OpenAI's orientation; see `plain_names`."""
    return to_openai(plain_names(tensors, tied))


def plain_names(tensors: Mapping[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    """The parameters among the tensors of a checkpoint file, by the model's names.

    Accepts the variants of different versions: a ``transformer.`` prefix, constant causal masks
    (``attn.bias``, ``attn.masked_bias``), and a separate ``lm_head.weight`` that equals ``wte``.

    Args:
        tensors: the content of the file.
        tied: whether the output layer is ``wte``.

    Raises:
        UserError: lists the tensors that occur twice, have a dtype other than float32, bfloat16 or
            float16, or should be a mask or the tied output layer and are not.
    """
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    problems = [
        f"{name}: there with and without the prefix 'transformer.'"
        for name in sorted(named)
        if {name, f"transformer.{name}"} <= tensors.keys()
    ]
    head = named.pop(HEAD, None) if tied else None
    if head is not None and not _equal(head, named.get("wte.weight")):
        problems.append(f"{HEAD}: differs from wte.weight, but tie_word_embeddings is true")
    positions = named.get("wpe.weight")
    length = len(positions) if positions is not None and positions.dim() else 0
    for name in [name for name in named if _is_mask_of_a_block(name, named)]:
        if not _is_constant(name, named.pop(name), length):
            problems.append(f"{name}: is not the constant causal mask of {length} positions")
    problems += [
        f"{name}: dtype {tensor.dtype}, expected one of {', '.join(map(str, FLOATS))}"
        for name, tensor in sorted(named.items())
        if tensor.dtype not in FLOATS
    ]
    if problems:
        raise UserError("not the weights of a GPT-2\n  " + "\n  ".join(problems))
    return named


def _is_conv1d(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def _is_mask_of_a_block(name: str, named: Mapping[str, Tensor]) -> bool:
    block = re.fullmatch(r"(h\.\d+\.attn)\.(masked_)?bias", name)
    return block is not None and f"{block[1]}.c_attn.weight" in named


def _is_constant(name: str, mask: Tensor, length: int) -> bool:
    """Whether it is a lower triangle of ones, ``(1, 1, T, T)``, or the score of masked tokens."""
    if mask.is_complex():
        return False
    if name.endswith("masked_bias"):
        return mask.dim() == 0 and bool(mask <= MASKED)
    if mask.shape != (1, 1, length, length):
        return False  # before a mask is created that may be far larger than the file
    return _equal(mask.float(), torch.ones(length, length).tril()[None, None])


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)
