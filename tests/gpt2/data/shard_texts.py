"""Real texts as shards, and the row of tokens that they must hold."""

from pathlib import Path

import click

from gpt2.core.files import new_directory
from gpt2.data.shards import write_shards
from gpt2.data.tokenizer.bpe import Tokenizer

TEXTS = [
    *(
        path.read_text(encoding="utf-8")
        for path in sorted(Path(click.__file__).parent.glob("*.py"))
    ),
    "naïve 中文 🙂",
    "x",
]
SHARD = 4096


def split_of(index: int) -> str:
    return "validation" if index % 4 == 0 else "train"


def write(directory: Path, tokenizer: Tokenizer, texts: list[str], shard_tokens: int) -> None:
    facts: dict[str, object] = {}
    rows = ((split_of(i), tokenizer.encode_documents([text])) for i, text in enumerate(texts))
    with new_directory(directory, facts) as new:
        facts |= write_shards(new, rows, tokenizer, shard_tokens)


def row(tokenizer: Tokenizer, split: str) -> list[int]:
    """The expected tokens of a split, computed in the simplest way."""
    return [
        token
        for index, text in enumerate(TEXTS)
        if split_of(index) == split
        for token in [tokenizer.end_of_text, *tokenizer.encode(text)]
    ]
