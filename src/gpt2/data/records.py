"""Documents and instruction records, their splits, and reproducible samples of them.

Samples and splits are decided by hashes of the content, so they do not depend on order.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import model_validator

from gpt2.core.params import Fraction, NonNegative, Params

Split = Literal["train", "validation", "test"]
Item = TypeVar("Item")
DOCUMENTS = "documents.jsonl"
"""The file of a corpus directory, with one `Document` per line."""
SEEN_BITS = 2**27
"""Size of the table in `sample_each`: 16 MiB."""


class Document(NamedTuple):
    """A text of the corpus: one line of `DOCUMENTS`."""

    name: str
    text: str


class InstructionRecord(NamedTuple):
    """One line of ``instructions.jsonl``: Alpaca's fields, the split and the origin."""

    instruction: str
    input: str
    output: str
    kind: str
    split: Split
    name: str
    """The object or line from which it was made."""


class SplitParams(Params):
    """How records are divided into train, validation and test."""

    seed: NonNegative
    """Decides which records are held out, and which are kept where a limit applies."""
    validation_fraction: Fraction = 0.02
    test_fraction: Fraction = 0.03

    @model_validator(mode="after")
    def _some_training_records(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must be below 1")
        return self


def write_documents(path: Path, documents: Iterable[Document]) -> dict[str, int]:
    """Write documents one by one as JSON Lines.

    Returns:
        The number of ``documents`` and of their ``characters``.
    """
    number = characters = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json_line(document))
            number += 1
            characters += len(document.text)
    return {"documents": number, "characters": characters}


def json_line(row: Document | InstructionRecord) -> str:
    """A row as one line of JSON."""
    return json.dumps(row._asdict(), ensure_ascii=False) + "\n"


def normalised(text: str) -> str:
    """Text in lower case with single spaces, to compare questions and answers."""
    return " ".join(text.casefold().split())


def unit_hash(key: str, seed: int) -> float:
    """A pseudorandom number in [0, 1), a function of ``key`` and ``seed``."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(key: str, params: SplitParams) -> Split:
    """The split of ``key``. It does not depend on other keys."""
    drawn = unit_hash(key, params.seed)
    if drawn < params.test_fraction:
        return "test"
    held_out = params.test_fraction + params.validation_fraction
    return "validation" if drawn < held_out else "train"


def sample(
    items: Iterable[Item], limit: int | None, key: Callable[[Item], str], seed: int
) -> list[Item]:
    """At most ``limit`` items, drawn by the hash of their ``key``, in their original order.

    Memory holds no more than ``limit`` of them.
    """
    if limit is None:
        return list(items)
    drawn = nsmallest(limit, enumerate(items), lambda numbered: unit_hash(key(numbered[1]), seed))
    return [item for _, item in sorted(drawn, key=itemgetter(0))]


def sample_each(
    items: Iterable[Item], limit: int | None, content: Callable[[Item], str], seed: int
) -> list[Item]:
    """`sample` by ``content`` where items may be equal: each of them is drawn on its own.

    The key of a repeated item includes its number. A table of `SEEN_BITS` bits remembers which
    contents have occurred. Two contents may share a bit; then the later key also includes the
    number, which does not change its probability.
    """
    seen = bytearray(SEEN_BITS // 8)

    def keyed() -> Iterator[tuple[str, Item]]:
        for number, item in enumerate(items):
            key = content(item)
            byte, bit = divmod(int(unit_hash(key, seed) * SEEN_BITS), 8)
            yield (f"{key} {number}" if seen[byte] >> bit & 1 else key), item
            seen[byte] |= 1 << bit

    return [item for _, item in sample(keyed(), limit, itemgetter(0), seed)]


def sample_records(
    records: Iterable[InstructionRecord], limit: int | None, seed: int
) -> list[InstructionRecord]:
    """At most ``limit`` records, drawn by the hash of question, answer and kind."""
    return sample_each(
        records,
        limit,
        lambda r: json.dumps((r.instruction, r.input, r.output, r.kind)),
        seed,
    )
