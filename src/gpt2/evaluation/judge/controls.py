"""Samples the records to judge, and makes control answers that are known to be right or wrong.

Even a useless judge gives a plausible mean. So it also grades answers that are right by
construction (the references themselves) and wrong by construction (references of other records).
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar


class Record(Protocol):
    """The fields of a test record that the sampling needs."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def reference(self) -> str: ...


R = TypeVar("R", bound=Record)


def stratified_sample(records: Sequence[R], size: int, seed: int) -> list[R]:
    """At most ``size`` records, each kind in proportion to its share, ordered by id."""
    ranked = []
    for kind, group in _by_kind(records).items():
        random.Random(f"{seed} {kind}").shuffle(group)
        ranked += [((rank + 0.5) / len(group), kind, record) for rank, record in enumerate(group)]
    ranked.sort(key=lambda entry: entry[:2])
    return sorted((record for _, _, record in ranked[:size]), key=lambda record: record.id)


def shuffled_references(sample: Sequence[R], records: Sequence[R], seed: int) -> dict[int, str]:
    """A wrong answer for each record of ``sample``, by id: the reference of another record.

    The other record is of the same kind if possible, which is the harder test. Its reference never
    has the same text, apart from case and white space.

    Raises:
        ValueError: all references are the same text.
    """
    by_kind = _by_kind(records)
    wrong = {}
    for record in sample:
        others = _differing(record, by_kind[record.kind]) or _differing(record, records)
        if not others:
            raise ValueError("all references are the same text: there is no wrong one")
        wrong[record.id] = random.Random(f"{seed} {record.id}").choice(others)
    return wrong


def _differing(record: R, records: Sequence[R]) -> list[str]:
    own = _normalised(record.reference)
    return [other.reference for other in records if _normalised(other.reference) != own]


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def _by_kind(records: Sequence[R]) -> Mapping[str, list[R]]:
    groups = defaultdict(list)
    for record in sorted(records, key=lambda record: record.id):
        groups[record.kind].append(record)
    return groups
