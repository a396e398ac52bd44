"""What every source gives, documents and instruction records, and draws that a hash decides."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from operator import itemgetter
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import model_validator

from gpt2.core.params import Fraction, NonNegative, Params

Split = Literal["train", "validation", "test"]
Item = TypeVar("Item")
MARKS = 2**27
"""Bits, 16 MiB of them."""


class Document(NamedTuple):
    """One line of ``corpus/documents.jsonl``."""

    name: str
    text: str


class InstructionRecord(NamedTuple):
    """One line of ``instructions.jsonl``: Alpaca's fields, and where the record comes from."""

    instruction: str
    input: str
    output: str
    kind: str
    split: Split
    name: str
    """The object or the line that it was made from."""


class SplitParams(Params):
    """How records are divided into train, validation and test."""

    seed: NonNegative
    """Decides which records are held out, and which are left out where only some are wanted."""
    validation_fraction: Fraction = 0.02
    test_fraction: Fraction = 0.03

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must be below 1")
        return self


def normalised(text: str) -> str:
    """Text without the differences of case and white space, which make no other answer of it."""
    return " ".join(text.casefold().split())


def unit_hash(key: str, seed: int) -> float:
    """A number in [0, 1) that looks random but is a function of ``key`` and ``seed``."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(key: str, params: SplitParams) -> Split:
    """The split that ``key`` falls into; adding other keys never moves it."""
    drawn = unit_hash(key, params.seed)
    if drawn < params.test_fraction:
        return "test"
    held_out = params.test_fraction + params.validation_fraction
    return "validation" if drawn < held_out else "train"


def sample(
    items: Iterable[Item], limit: int | None, key: Callable[[Item], str], seed: int
) -> list[Item]:
    """At most ``limit`` items, drawn by the hash of their ``key``, in their own order.

    No more are in memory, however many there are.
    """
    if limit is None:
        return list(items)
    drawn = nsmallest(limit, enumerate(items), lambda numbered: unit_hash(key(numbered[1]), seed))
    return [item for _, item in sorted(drawn, key=itemgetter(0))]


def sample_each(
    items: Iterable[Item], limit: int | None, content: Callable[[Item], str], seed: int
) -> list[Item]:
    """`sample` by ``content`` where items may be equal: each is drawn by itself, not all or none.

    A repeated item counts with its number. What came before is marked, not kept: `MARKS` bits, in
    which two items may share one. Then the later one counts with its number, too, as likely drawn.
    """
    marks = bytearray(MARKS // 8)

    def keyed() -> Iterator[tuple[str, Item]]:
        for number, item in enumerate(items):
            key = content(item)
            byte, bit = divmod(int(unit_hash(key, seed) * MARKS), 8)
            yield (f"{key} {number}" if marks[byte] >> bit & 1 else key), item
            marks[byte] |= 1 << bit

    return [item for _, item in sample(keyed(), limit, itemgetter(0), seed)]


def sample_records(
    records: Iterable[InstructionRecord], limit: int | None, seed: int
) -> list[InstructionRecord]:
    """At most ``limit`` records, drawn by the hash of all that they ask and answer."""
    return sample_each(
        records,
        limit,
        lambda r: json.dumps((r.instruction, r.input, r.output, r.kind)),
        seed,
    )
