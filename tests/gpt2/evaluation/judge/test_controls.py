"""Stratified samples, and control answers that are really wrong."""

from collections import Counter
from dataclasses import dataclass

import pytest

from gpt2.evaluation.judge.controls import shuffled_references, stratified_sample


@dataclass(frozen=True)
class Record:
    id: int
    kind: str
    reference: str


RECORDS = [
    Record(id, kind, reference)
    for id, (kind, reference) in enumerate(
        [("describe", f"Does thing {n}.") for n in range(60)]
        + [("library", ("numpy", "NumPy ", "torch")[n % 3]) for n in range(30)]
        + [("name", f"name_{n}") for n in range(10)]
    )
]


def test_kinds_keep_their_shares():
    sample = stratified_sample(RECORDS, 20, seed=1)
    assert Counter(record.kind for record in sample) == {"describe": 12, "library": 6, "name": 2}
    assert [record.id for record in sample] == sorted({record.id for record in sample})


def test_sample_depends_on_the_seed_and_not_on_the_order():
    sample = stratified_sample(RECORDS, 20, seed=1)
    assert sample == stratified_sample(RECORDS[::-1], 20, seed=1)
    assert sample != stratified_sample(RECORDS, 20, seed=2)


def test_small_samples_are_part_of_larger_ones_and_large_ones_are_everything():
    assert set(stratified_sample(RECORDS, 5, seed=1)) < set(stratified_sample(RECORDS, 50, seed=1))
    assert stratified_sample(RECORDS, 1000, seed=1) == RECORDS


def test_no_item_keeps_its_own_reference_and_kinds_stay_together():
    wrong = shuffled_references(RECORDS, RECORDS, seed=1)
    of_kind = {record.reference: record.kind for record in RECORDS}
    for record in RECORDS:
        given = wrong[record.id]
        assert given.strip().lower() != record.reference.strip().lower()
        assert of_kind[given] == record.kind
    assert wrong == shuffled_references(RECORDS[::-1], RECORDS[::-1], seed=1)


def test_a_kind_with_one_text_borrows_from_others():
    records = [Record(0, "a", "same"), Record(1, "a", "Same"), Record(2, "b", "other")]
    assert shuffled_references(records, records, seed=1) == {
        0: "other",
        1: "other",
        2: shuffled_references(records, records, seed=1)[2],
    }


def test_one_text_everywhere_is_refused():
    records = [Record(0, "a", "same"), Record(1, "b", "same ")]
    with pytest.raises(ValueError, match="no wrong one"):
        shuffled_references(records, records, seed=1)
