"""Records from real packages, and the rule that separates their splits."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.records import InstructionRecord, normalised
from gpt2.data.sources.package_docs import DocumentedObject, documented_objects
from gpt2.data.sources.package_instructions import (
    LARGEST_DRAWN_GROUP,
    PackageDocsInstructions,
    assign_splits,
    make_records,
    summary,
    without_held_out,
)

PACKAGES = ["matplotlib", "numpy", "pandas", "scikit-learn"]
PARAMS = PackageDocsInstructions(source="package_docs", packages=PACKAGES, seed=123)
KINDS = {"describe", "name", "library", "object"}


@pytest.fixture(scope="module")
def objects() -> list[DocumentedObject]:
    return documented_objects(PACKAGES, "instructions.packages")


@pytest.fixture(scope="module")
def records(objects: list[DocumentedObject]) -> list[InstructionRecord]:
    return make_records(objects, PARAMS)


def splits_of(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """For each key of (key, split) pairs, its splits."""
    splits = defaultdict(set)
    for key, split in pairs:
        splits[key].add(split)
    return list(splits.values())


def test_nothing_is_in_two_splits(records: list[InstructionRecord]) -> None:
    functions = splits_of((record.name, record.split) for record in records)
    inputs = splits_of((normalised(record.input), record.split) for record in records)
    for kind in ("describe", "name"):
        answers = splits_of(
            (normalised(record.output), record.split) for record in records if record.kind == kind
        )
        assert all(len(splits) == 1 for splits in answers), kind
    assert all(len(splits) == 1 for splits in functions + inputs)
    assert set.union(*functions) == {"train", "validation", "test"}


def test_splits_have_about_the_wanted_sizes(records: list[InstructionRecord]) -> None:
    counts = Counter(record.split for record in records if record.kind == "describe")
    assert counts["test"] / counts.total() == pytest.approx(PARAMS.test_fraction, rel=0.3)
    assert counts["validation"] / counts.total() == pytest.approx(
        PARAMS.validation_fraction, rel=0.3
    )


def test_a_seed_holds_out_other_functions(objects: list[DocumentedObject]) -> None:
    other = assign_splits(objects, PARAMS.model_copy(update={"seed": 5}))
    tested = {name for name, split in assign_splits(objects, PARAMS).items() if split == "test"}
    tested_with_other = {name for name, split in other.items() if split == "test"}
    assert len(tested & tested_with_other) < len(tested) / 5


def test_a_common_answer_goes_to_train() -> None:
    def fits(number: int) -> list[DocumentedObject]:
        return [
            DocumentedObject(f"a.B{i}.fit", "a", "method", "", f"Fit {i} to the data.", True)
            for i in range(number)
        ]

    seeds = [PARAMS.model_copy(update={"seed": seed, "test_fraction": 0.9}) for seed in range(9)]
    largest = fits(LARGEST_DRAWN_GROUP)
    assert "test" in {split for seed in seeds for split in assign_splits(largest, seed).values()}
    larger = fits(LARGEST_DRAWN_GROUP + 1)
    assert {split for seed in seeds for split in assign_splits(larger, seed).values()} == {"train"}


def test_test_functions_are_not_in_the_corpus(
    objects: list[DocumentedObject], records: list[InstructionRecord]
) -> None:
    corpus = without_held_out(objects, objects, records)
    tested = [record for record in records if record.split == "test"]
    assert not {record.name for record in tested} & {item.name for item in corpus}
    answers = {normalised(record.output) for record in tested if record.kind == "describe"}
    assert not answers & {normalised(summary(item)) for item in corpus}
    assert 0.9 * len(objects) < len(corpus) < len(objects)
    assert without_held_out(objects, [], []) == objects


def test_a_twin_of_a_test_function_is_not_in_the_corpus() -> None:
    tested = DocumentedObject("a.f", "a", "function", "", "Do  it.\n\nWell.", True)
    twin = replace(tested, name="b._g", docstring="do it.\n\nOtherwise.", public=False)
    other = replace(tested, name="b.h", docstring="Do that.")
    record = InstructionRecord("", "", "", "object", "test", "a.f")
    assert without_held_out([tested, twin, other], [tested], [record]) == [other]


def test_short_answers_are_balanced_and_not_given_away(records: list[InstructionRecord]) -> None:
    for kind, answers in {"library": PACKAGES, "object": ["class", "function", "method"]}.items():
        for split in ("train", "validation", "test"):
            counts = Counter(r.output for r in records if (r.kind, r.split) == (kind, split))
            assert sorted(counts) == answers
            assert len(set(counts.values())) == 1
    library = [record for record in records if record.kind == "library"]
    given_away = re.compile(r"\b(numpy|np|pandas|pd|scikit|sklearn|matplotlib|plt)\b", re.I)
    assert not [record.input for record in library if given_away.search(record.input)]
    assert all(", ".join(PACKAGES) in record.instruction for record in library)
    objects = [record for record in records if record.kind == "object"]
    assert not [record for record in objects if re.search(r"\bself\b", record.input)]


def test_questions_and_answers_are_short_plain_lines(records: list[InstructionRecord]) -> None:
    assert {record.kind for record in records} == KINDS
    for record in records:
        assert len(record.instruction) + len(record.input) <= 700
        assert 0 < len(record.output) <= 200
        assert "\n" not in record.input + record.output
        assert "`" not in record.output
    assert len({record[:3] for record in records}) == len(records)
    names = [record for record in records if record.kind == "name"]
    assert not [r for r in names if re.search(rf"\b{re.escape(r.output)}\b", r.input)]


def test_a_well_known_function(objects: list[DocumentedObject]) -> None:
    norm = [item for item in objects if item.name == "numpy.linalg._linalg.norm"]
    describe, about = make_records(norm, PARAMS)
    assert describe[:4] == (
        "Describe in one line what this Python function does.",
        "def numpy.linalg._linalg.norm(x, ord=None, axis=None, keepdims=False)  # norm",
        "Matrix or vector norm.",
        "describe",
    )
    assert about.input.startswith("norm: Matrix or vector norm. This function is able to return")
    assert (about.kind, about.output) == ("object", "function")


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Get the `~.lines.Line2D`\\s of a\n:class:`.Legend`.\n\nMore.", "Line2Ds of a Legend."),
        ("Get the :py:meth:`~a.b.c` of ``x``.", "c of x."),
        ("Get the :ref:`nice text <label>`.", "nice text."),
    ],
)
def test_summaries_carry_no_markup(docstring: str, expected: str) -> None:
    item = DocumentedObject("a.f", "a", "function", "", docstring, True)
    assert summary(item) == f"Get the {expected}"


def test_a_limit_is_a_draw_not_a_head(
    objects: list[DocumentedObject], records: list[InstructionRecord]
) -> None:
    few = make_records(objects, PARAMS.model_copy(update={"limit": 50}))
    assert Counter(record.kind for record in few) == dict.fromkeys(KINDS, 50)
    assert set(few) <= set(records)
    assert len({record.name.split(".")[0] for record in few}) >= len(PACKAGES)


def test_a_limit_takes_no_split_first(
    objects: list[DocumentedObject], records: list[InstructionRecord]
) -> None:
    few = make_records(objects, PARAMS.model_copy(update={"limit": 300}))
    for kind in KINDS:
        shares = [
            sum(r.split != "train" for r in some if r.kind == kind)
            / sum(r.kind == kind for r in some)
            for some in (few, records)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.05), kind


def test_one_package_makes_no_question_of_libraries(objects: list[DocumentedObject]) -> None:
    numpy = [item for item in objects if item.package == "numpy"]
    assert {record.kind for record in make_records(numpy, PARAMS)} == KINDS - {"library"}


def test_fractions_must_leave_something_to_train_on() -> None:
    values = PARAMS.model_dump() | {"validation_fraction": 0.5, "test_fraction": 0.5}
    with pytest.raises(UserError, match="must be below 1"):
        parse(PackageDocsInstructions, values, "params.yaml: instructions")
