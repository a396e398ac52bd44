"""Reads llm.c's ``.bin`` files: a header of 256 integers, then all tensors in a fixed order.

Layout: ``write_model`` in llm.c's ``train_gpt2.py``.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.inference.importing.checkpoint import Checkpoint
from gpt2.model.config import GPT2Config

MAGIC, HEADER = 20240326, 256
OTHER_FILES = {
    20240327: "the state of a debugging run",
    20240520: "tokens to train on",
    20240522: "an evaluation",
    20240527: "the state of an optimizer",
    20240803: "a Llama 3",
}
"""What other magic numbers of llm.c stand for (those that are known)."""
FORMATS: dict[int, np.dtype[Any]] = {
    3: np.dtype("<f4"),
    5: np.dtype("<i2"),  # bfloat16, which numpy does not have
}
"""dtype of the tensors, by version. Both versions pad the vocabulary."""
FIELDS = ("context_length", "vocab_size", "n_layer", "n_head", "n_embd")
"""Fields of the header after magic number and version. The padded vocabulary size follows."""


def is_checkpoint(path: Path) -> bool:
    """Whether the file begins with a magic number of llm.c."""
    with path.open("rb") as file:
        start = int.from_bytes(file.read(4), "little")
    return start == MAGIC or start in OTHER_FILES


def read(path: Path) -> Checkpoint:
    """Read the checkpoint in ``path``, without the padding rows of its vocabulary.

    Raises:
        UserError: another kind of file, an older version, or a length unlike the header's.
    """
    header = [int(number) for number in np.fromfile(path, "<i4", HEADER)]
    if header and header[0] in OTHER_FILES:
        raise UserError(f"{path}: {OTHER_FILES[header[0]]}, not a model of llm.c")
    if len(header) < HEADER or header[0] != MAGIC:
        raise UserError(f"{path}: not a model of llm.c: it does not begin with its header")
    if header[1] not in FORMATS:
        raise UserError(
            f"{path}: version {header[1]} of llm.c's models; {' and '.join(map(str, FORMATS))} are "
            "read. Write it again with a newer llm.c"
        )
    config = parse(GPT2Config, dict(zip(FIELDS, header[2:], strict=False)), f"{path}: header")
    padded = header[2 + len(FIELDS)]
    if padded < config.vocab_size:
        raise UserError(f"{path}: header: {padded} padded entries for {config.vocab_size}")
    kinds = _kinds(config, padded)
    number = FORMATS[header[1]]
    total = sum(_layers(kind, config) * math.prod(shape) for kind, shape in kinds.items())
    wanted = 4 * HEADER + number.itemsize * total
    if path.stat().st_size != wanted:
        raise UserError(f"{path}: has {path.stat().st_size:,} bytes, its header wants {wanted:,}")
    numbers = np.memmap(path, number, "r", offset=4 * HEADER)
    tensors: dict[str, Tensor] = {}
    start = 0
    for kind, shape in kinds.items():
        for layer in range(_layers(kind, config)):
            end = start + math.prod(shape)
            found = torch.from_numpy(np.array(numbers[start:end]).reshape(shape))
            tensors[kind.replace("*", str(layer))] = (
                found if number.kind == "f" else found.view(torch.bfloat16)
            )
            start = end
    tensors["wte.weight"] = tensors["wte.weight"][: config.vocab_size]
    return Checkpoint(f"llm.c, version {header[1]}", config, tensors)


def _kinds(config: GPT2Config, padded: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file's order; * stands for all layers in turn."""
    C = config.n_embd
    return {
        "wte.weight": (padded, C),
        "wpe.weight": (config.context_length, C),
        "h.*.ln_1.weight": (C,),
        "h.*.ln_1.bias": (C,),
        "h.*.attn.c_attn.weight": (3 * C, C),
        "h.*.attn.c_attn.bias": (3 * C,),
        "h.*.attn.c_proj.weight": (C, C),
        "h.*.attn.c_proj.bias": (C,),
        "h.*.ln_2.weight": (C,),
        "h.*.ln_2.bias": (C,),
        "h.*.mlp.c_fc.weight": (4 * C, C),
        "h.*.mlp.c_fc.bias": (4 * C,),
        "h.*.mlp.c_proj.weight": (C, 4 * C),
        "h.*.mlp.c_proj.bias": (C,),
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
    }


def _layers(kind: str, config: GPT2Config) -> int:
    return config.n_layer if "*" in kind else 1
