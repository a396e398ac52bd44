"""Reads nanoGPT's ``ckpt.pt``: a dictionary with ``model_args`` and the tensors of ``model``."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the name of an error, nothing that unpickles
from typing import Any, Literal

import torch
from torch import Tensor

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.inference.importing.checkpoint import Checkpoint
from gpt2.model.config import GPT2Config
from gpt2.model.openai_tensors import HEAD, plain_names

ARGS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "vocab_size": "vocab_size",
    "block_size": "context_length",
}
"""Keys of ``model_args`` that are fields of `GPT2Config`."""
OTHERS = {"bias", "dropout"}
"""Keys of ``model_args`` that are no fields of `GPT2Config`."""
COMPILED = "_orig_mod."
"""Prefix that torch.compile puts before each name."""


def is_checkpoint(path: Path) -> bool:
    """Whether the file is a zip archive, as `torch.save` writes it."""
    return zipfile.is_zipfile(path)


def read(path: Path, gelu: Literal["tanh", "none"]) -> Checkpoint:
    """Read the checkpoint in ``path``.

    No code in it is run (``weights_only``), and only the model's tensors are kept in memory.

    Args:
        path: the file.
        gelu: the approximation that nanoGPT's ``model.py`` used; the checkpoint does not say.

    Raises:
        UserError: damaged, written by another program, or with parameters that no GPT-2 has.
    """
    _check_whole(path)
    try:
        values = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: contains objects other than numbers, text and tensors, and loading those "
            f"would run code. Save it again without them ({reason})"
        ) from error
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise UserError(f"{path}: not a checkpoint that torch.save wrote ({error})") from error
    args, state = _parts(path, values)
    if unknown := sorted(map(str, args.keys() - ARGS.keys() - OTHERS)):
        raise UserError(f"{path}: model_args: {', '.join(unknown)}: nanoGPT has no such key")
    shape = {field: args[key] for key, field in ARGS.items() if key in args}
    named = {name.removeprefix(COMPILED): tensor for name, tensor in state.items()}
    if len(named) < len(state):
        raise UserError(f"{path}: tensors are there with and without the prefix {COMPILED}")
    tied = _are_tied(named.get(HEAD), named.get("transformer.wte.weight"))
    shape |= {"gelu": gelu, "tie_word_embeddings": tied}
    config = parse(GPT2Config, shape, f"{path}: model_args")
    try:
        tensors = plain_names(named, tied)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    has_biases = any(name.endswith(".bias") for name in tensors)
    if args.get("bias", True) is not has_biases:
        raise UserError(
            f"{path}: model_args.bias is {args.get('bias', True)}, but "
            f"{'there are' if has_biases else 'there are no'} biases"
        )
    kind = "exact GELU" if gelu == "none" else "GELU by tanh"
    return Checkpoint(f"nanoGPT with {kind}", config, tensors)


def _check_whole(path: Path) -> None:
    """Refuse a file with a wrong checksum: a flipped bit would be a wrong weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    # What `zipfile` raises for damaged archives.
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
    if bad is not None:
        raise UserError(f"{path}: damaged at {bad}")


def _parts(path: Path, values: object) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """The values of ``model_args`` and ``model``."""
    found = values if isinstance(values, dict) else {}
    args, state = found.get("model_args"), found.get("model")
    if not isinstance(args, dict) or not isinstance(state, dict):
        raise UserError(
            f"{path}: not a checkpoint of nanoGPT, which has model and model_args. A file of "
            "another program has to be converted to Hugging Face safetensors with that program"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: model: {name!r} is not the name of a tensor")
    return args, state


def _are_tied(head: Tensor | None, embedding: Tensor | None) -> bool:
    """Whether the output layer is the token embedding."""
    if head is None or embedding is None:
        return True
    return head.shape == embedding.shape and torch.equal(head, embedding)
