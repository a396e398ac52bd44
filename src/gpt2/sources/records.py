"""What every source gives, documents and instruction records, and draws that a hash decides."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import nsmallest
from operator import itemgetter
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import model_validator

from gpt2.params import Fraction, NonNegative, Params

Split = Literal["train", "validation", "test"]
Item = TypeVar("Item")


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


def sample_records(
    records: Iterable[InstructionRecord], limit: int | None, seed: int
) -> list[InstructionRecord]:
    """At most ``limit`` records, drawn by the hash of all that they ask and answer.

    Equal ones count one by one: each is drawn as likely as any other record, not all or none.
    """
    earlier: Counter[str] = Counter()
    keyed: list[tuple[str, InstructionRecord]] = []
    for record in records:
        content = json.dumps((record.instruction, record.input, record.output, record.kind))
        keyed.append((f"{content} {earlier[content]}", record))
        earlier[content] += 1
    return [record for _, record in sample(keyed, limit, itemgetter(0), seed)]
