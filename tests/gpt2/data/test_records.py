"""Samples are uniform: no field of a record and no position in the file makes it likelier."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from scipy.stats import chisquare

from gpt2.data.instructions import choose_records as choose_for_training
from gpt2.data.parsing.rows import Row
from gpt2.data.records import InstructionRecord, sample_records
from gpt2.data.sources.own_data import draw
from gpt2.data.sources.row_params import CorpusRows
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.tasks import VARIANTS, Response, make_tasks
from gpt2.evaluation.responses import choose_test_records

N = 3000
KINDS = ("plain", "equal", "longer", "other")


def record(index: int) -> InstructionRecord:
    """Four kinds of records; two of five have an input, and one kind has equal records."""
    kind = KINDS[index % len(KINDS)]
    number = "" if kind == "equal" else str(index)
    given = f"sentence {number}" if index % 5 < 2 else ""
    answer = f"answer {number}" * (20 if kind == "longer" else 1)
    return InstructionRecord(f"Ask {number}", given, answer, kind, "test", f"file:{index}")


RECORDS = [record(index) for index in range(N)]
FEATURES: dict[str, Callable[[InstructionRecord], object]] = {
    "kind": lambda r: r.kind,
    "input": lambda r: bool(r.input),
    "length": lambda r: len(r.output),
    "position": lambda r: place(r) * 10 // N,
    "parity": lambda r: place(r) % 2,
}


def place(record: InstructionRecord) -> int:
    return int(record.name.removeprefix("file:"))


def p_value(
    drawn: Sequence[InstructionRecord],
    population: Sequence[InstructionRecord],
    feature: Callable[[InstructionRecord], object],
) -> float:
    """Probability of a sample at least as uneven by chance."""
    found, everything = Counter(map(feature, drawn)), Counter(map(feature, population))
    expected = [len(drawn) * count / len(population) for count in everything.values()]
    return float(chisquare([found[value] for value in everything], expected).pvalue)


@pytest.mark.parametrize("seed", [0, 7, 123])
@pytest.mark.parametrize("feature", FEATURES)
def test_a_draw_is_even(feature: str, seed: int) -> None:
    drawn = sample_records(RECORDS, 400, seed)
    assert len(drawn) == 400
    assert [place(r) for r in drawn] == sorted(place(r) for r in drawn)
    assert p_value(drawn, RECORDS, FEATURES[feature]) > 0.001


@pytest.mark.parametrize("feature", ["input", "position"])
def test_what_is_answered_is_even_within_each_kind(feature: str) -> None:
    drawn = choose_test_records(RECORDS, 100, seed=123)
    for kind in KINDS:
        of_kind = [[r for r in some if r.kind == kind] for some in (drawn, RECORDS)]
        assert len(of_kind[0]) == 100
        assert p_value(*of_kind, FEATURES[feature]) > 0.001


def test_what_is_trained_and_validated_on_is_even_within_each_kind() -> None:
    records = [r._replace(split=("train", "validation")[place(r) // 4 % 2]) for r in RECORDS]
    drawn = choose_for_training(records, dict.fromkeys(KINDS, 100), 90, seed=123)
    assert Counter(r.split for r in drawn) == {"train": 400, "validation": 360}
    for split in ("train", "validation"):
        for kind in KINDS:
            of_kind = [
                [r for r in some if (r.kind, r.split) == (kind, split)] for some in (drawn, records)
            ]
            assert p_value(*of_kind, FEATURES["position"]) > 0.001
            assert p_value(*of_kind, FEATURES["input"]) > 0.001


def test_a_draw_depends_on_the_seed_and_a_smaller_one_is_part_of_it() -> None:
    drawn = sample_records(RECORDS, 300, seed=1)
    assert drawn == sample_records(RECORDS, 300, seed=1) != sample_records(RECORDS, 300, seed=2)
    assert set(sample_records(RECORDS, 40, seed=1)) < set(drawn)
    assert sample_records(RECORDS, None, seed=1) == RECORDS


def test_every_field_counts() -> None:
    for field in ("instruction", "input", "output", "kind"):
        records = [record(0)._replace(**{field: f"text {index}"}) for index in range(200)]
        drawn = {int(getattr(r, field).split()[1]) for r in sample_records(records, 100, seed=1)}
        assert drawn != set(range(100)), field


def test_equal_records_are_drawn_one_by_one() -> None:
    same = [record(1)] * 500
    others = [record(4 * index) for index in range(500)]
    drawn = sample_records([*same, *others], 200, seed=5)
    assert 60 < drawn.count(same[0]) < 140
    assert len(sample_records(same, 7, seed=5)) == 7
    surrogate = record(1)._replace(input="\ud800")
    assert sample_records([surrogate] * 3, 2, seed=1) == [surrogate] * 2


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_rows_of_ones_own_are_drawn_evenly_equal_ones_too(seed: int) -> None:
    """Half of the texts are equal, like placeholders in real data."""
    rows = [Row(str(n), "", "N/A" if n % 2 else {"text": f"Text {n}"}) for n in range(N)]
    params = CorpusRows(limit=400, seed=seed)
    drawn = list(draw(iter(rows), params))
    assert len(drawn) == 400
    for feature in (lambda row: row.value == "N/A", lambda row: int(row.name) * 10 // N):
        found, everything = Counter(map(feature, drawn)), Counter(map(feature, rows))
        expected = [len(drawn) * count / N for count in everything.values()]
        assert chisquare([found[value] for value in everything], expected).pvalue > 0.001


def test_what_is_judged_is_even() -> None:
    """Items, and the controls among them."""
    responses = [
        Response(
            id=n,
            kind=r.kind,
            instruction=r.instruction,
            input=r.input,
            reference=f"{r.output}{n}",
            finetuned="",
            base="",
        )
        for n, r in enumerate(RECORDS)
    ]
    tasks = make_tasks(responses, LlamaEvalParams(n_items=800, n_controls=400))
    for variant in VARIANTS:
        drawn = [RECORDS[task.id] for task in tasks if task.variant == variant]
        for feature in FEATURES.values():
            assert p_value(drawn, RECORDS, feature) > 0.001
