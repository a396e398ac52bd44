"""Rows become documents and instruction records, or are refused."""

import contextlib
import json
import logging
import random
import tracemalloc
from collections import Counter

import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.records import Document, InstructionRecord
from gpt2.data.sources.own_data import documents, draw, instruction_records
from gpt2.data.sources.row_params import CorpusRows, InstructionRows

ALPACA = [
    {"instruction": f"Say {n}.", "input": "" if n % 2 else "aloud", "output": str(n), "text": "-"}
    for n in range(1234)
]


def data(values: list[object]) -> RawData:
    rows = [Row(f"own:{n}", f"record {n}", value) for n, value in enumerate(values, start=1)]
    return RawData("own", iter(rows), {})


def records(values: list[object], **keys: object) -> list[InstructionRecord]:
    return instruction_records(data(values), InstructionRows(**keys)).records


def test_texts_and_records_are_documents() -> None:
    values: list[object] = ["One", {"text": "Two", "year": 1999}, {"name": "b", "text": "Three"}]
    expected = [Document("own:1", "One"), Document("own:2", "Two"), Document("b", "Three")]
    raw = data(values)
    assert list(documents(raw, CorpusRows())) == expected
    assert raw.facts == {"skipped": 0}


def test_the_text_may_stand_in_another_column() -> None:
    values: list[object] = [{"content": "One", "text": "-"}, "Two"]
    found = documents(data(values), CorpusRows(column="content"))
    assert [document.text for document in found] == ["One", "Two"]


def test_lines_are_stripped_as_in_the_tutorial() -> None:
    text = "  The war \r\n\n \t\nbegan in\t1914.\n\n\nIt\u2028ended. \n"
    (stripped,) = documents(data([text]), CorpusRows(lines="strip"))
    assert stripped.text == "The war\nbegan in\t1914.\nIt\u2028ended."
    (kept,) = documents(data([text]), CorpusRows())
    assert kept.text == text


def test_the_tutorials_draw_and_splits() -> None:
    random.seed(123)
    drawn = random.sample(ALPACA, 1000)
    splits = {"train": drawn[:800], "test": drawn[800:900], "validation": drawn[900:]}
    found = records(ALPACA, limit=1000, sampling="random", seed=123, split_by="position")
    for split, expected in splits.items():
        assert [record.output for record in found if record.split == split] == [
            row["output"] for row in expected
        ]


@pytest.mark.parametrize(
    ("total", "validation", "test", "counts"),
    [(999, 0.1, 0.1, (799, 99, 101)), (100, 0.05, 0.1, (85, 10, 5)), (1000, 0.2, 0.1, (700, 100))],
)
def test_counts_by_position_are_rounded_down(
    total: int, validation: float, test: float, counts: tuple[int, ...]
) -> None:
    found = records(
        ALPACA[:total], split_by="position", validation_fraction=validation, test_fraction=test
    )
    splits = Counter(record.split for record in found)
    assert (splits["train"], splits["test"], splits["validation"])[: len(counts)] == counts
    assert [record.output for record in found] == [row["output"] for row in ALPACA[:total]]


def test_a_bad_record_moves_no_other_one() -> None:
    keys = {"limit": 500, "sampling": "random", "split_by": "position", "on_bad_record": "skip"}
    before = records(ALPACA, **keys)
    bad = {record.output for record in before[::50]}
    values = [{**row, "output": "" if row["output"] in bad else row["output"]} for row in ALPACA]
    found = instruction_records(data(values), InstructionRows(**keys))
    assert found.records == [record for record in before if record.output not in bad]
    assert found.facts == {
        "skipped_records": 10,
        "repeated_records": 0,
        "emptied_inputs": 0,
        "questions_in_two_splits": 0,
    }


def test_drawn_by_hash_the_order_of_the_file_is_kept_and_does_not_matter() -> None:
    drawn = [record.output for record in records(ALPACA, limit=100)]
    assert len(drawn) == 100
    assert drawn == [row["output"] for row in ALPACA if row["output"] in drawn]
    assert {record.output for record in records(ALPACA[::-1], limit=100)} == set(drawn)
    assert {record.output for record in records(ALPACA, limit=100, seed=1)} != set(drawn)


def test_the_first_rows_are_all_that_is_read() -> None:
    endless = (Row(f"own:{n}", f"row {n}", f"Text {n}") for n in iter(int, 1))
    assert len(list(draw(endless, CorpusRows(limit=3, sampling="first")))) == 3


@pytest.mark.parametrize("keys", [{}, {"limit": 20, "seed": 2}, {"on_bad_record": "skip"}])
def test_rows_pass_through_one_by_one(keys: dict[str, object]) -> None:
    def peak(rows: int) -> int:
        made = (Row(f"own:{n}", f"record {n}", f"{n:9} " * 1000 * (n % 9 > 0)) for n in range(rows))
        tracemalloc.start()
        with contextlib.suppress(UserError):  # some texts are empty
            for _ in documents(RawData("own", made, {}), CorpusRows(**keys)):
                pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1000) < 1.3 * peak(100)


@pytest.mark.parametrize("sampling", ["hash", "random", "first"])
def test_a_limit_that_is_not_reached_takes_all(sampling: str) -> None:
    found = records(ALPACA[:50], limit=100, sampling=sampling)
    assert {record.output for record in found} == {row["output"] for row in ALPACA[:50]}


def test_splits_by_hash() -> None:
    found = records(ALPACA, validation_fraction=0.02, test_fraction=0.1)
    assert found[4].name == "own:5"
    assert found[4].kind == "instruction"
    counts = Counter(record.split for record in found)
    assert counts["test"] == pytest.approx(123, abs=30)
    assert counts["validation"] == pytest.approx(25, abs=14)


def test_equal_questions_share_a_split_in_any_order() -> None:
    before = [record.split for record in records(ALPACA)]
    again = [{**row, "instruction": row["instruction"].upper() + " "} for row in ALPACA]
    assert [record.split for record in records([*again, *ALPACA])] == before * 2


def test_questions_in_two_splits_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    again = [{**row, "instruction": row["instruction"].upper()} for row in ALPACA[:7]]
    values = [*ALPACA[:100], *again]
    found = instruction_records(data(values), InstructionRows(split_by="position"))
    assert found.facts["questions_in_two_splits"] == 7
    assert len(found.records) == 107
    assert "own: 7 question(s) occur in more than one split" in caplog.text
    assert "\n  own:1, own:101\n  own:2, own:102\n" in caplog.text
    found = instruction_records(data(values), InstructionRows())
    assert found.facts["questions_in_two_splits"] == 0


def test_repeated_records_are_kept_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    other_answer = {**ALPACA[2], "output": "Two"}
    values = [*ALPACA[:5], ALPACA[2], other_answer, dict(ALPACA[0])]
    found = instruction_records(data(values), InstructionRows())
    assert [record.output for record in found.records] == ["0", "1", "2", "3", "4", "2", "Two", "0"]
    assert found.facts["repeated_records"] == 2
    told = (
        "own: 2 record(s) repeat another\n  record 6 repeats record 3\n  record 8 repeats record 1"
    )
    assert told in caplog.text


def test_fields_that_are_not_read_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gpt2"):
        records([*ALPACA[:3], {"instruction": "Say it.", "output": "it", "inptu": "\ud800"}])
    assert "own: fields not used: 'inptu', 'text'" in caplog.text


def test_fields_may_have_other_names() -> None:
    values: list[object] = [{"prompt": "Say it.", "output": "no", "answer": "It."}, {"answer": ""}]
    keys = {"columns": {"instruction": "prompt", "output": "answer"}}
    assert records(values[:1], **keys)[0][:3] == ("Say it.", "", "It.")
    with pytest.raises(UserError) as caught:
        records(values, **keys)
    assert str(caught.value).splitlines()[1:] == [
        "  record 2: 'prompt': Field required",
        "  record 2: 'answer' is empty",
        "  The fields there are: answer",
    ]


BAD: list[object] = [
    ALPACA[0],
    {"instruction": "Say it.", "output": " \n"},
    {"instruction": 3, "input": None, "output": "x"},
    {"output": "x"},
    {"instruction": "\ud800", "output": "x"},
    3,
    "text",
]


def test_every_problem_is_reported_with_its_place() -> None:
    with pytest.raises(UserError) as caught:
        records(BAD)
    first, *problems = str(caught.value).splitlines()
    assert first == f"own: {len(problems) - 1} problem(s)"
    assert problems[0] == "  record 2: 'output' is empty"
    assert problems[1].startswith("  record 3: 'instruction': Input should be a valid string")
    assert problems[1].endswith("coerce: true converts it")
    assert problems[2] == "  record 4: 'instruction': Field required"
    assert problems[3].startswith("  record 5: 'instruction': ")
    assert "unicode" in problems[3]
    assert problems[4].startswith("  record 6: Input should be a valid dictionary")
    assert problems[5].startswith("  record 7: Input should be a valid dictionary")
    assert problems[6:] == ["  The fields there are: output"]


def test_a_flood_of_problems_is_cut() -> None:
    with pytest.raises(UserError, match=r"1,000 problem\(s\)") as caught:
        records([{}] * 500)
    assert len(str(caught.value).splitlines()) == 22
    assert str(caught.value).endswith("and 980 more")


def test_bad_records_may_be_skipped_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    found = instruction_records(data(BAD), InstructionRows(on_bad_record="skip"))
    assert [record.output for record in found.records] == ["0"]
    assert found.facts["skipped_records"] == 6
    assert caplog.records[0].levelno == logging.WARNING
    assert "own: 6 of 7 records skipped" in caplog.text
    assert "record 2: 'output' is empty" in caplog.text
    values: list[object] = ["One", {"text": " "}, {"text": "Two"}]
    raw = data(values)
    assert len(list(documents(raw, CorpusRows(on_bad_record="skip")))) == 2
    assert raw.facts == {"skipped": 1}


@pytest.mark.parametrize("on_bad_record", ["error", "skip"])
@pytest.mark.parametrize(("values", "message"), [([], "no records"), ([3, 4], "2 problem")])
def test_nothing_is_never_enough(on_bad_record: str, values: list[object], message: str) -> None:
    with pytest.raises(UserError, match=f"own: {message}"):
        list(documents(data(values), CorpusRows(on_bad_record=on_bad_record)))


def test_params_are_strict() -> None:
    values = {"limit": 0, "sampling": "some", "columns": {"question": "q"}, "test_fraction": 1.0}
    with pytest.raises(UserError) as caught:
        parse(InstructionRows, values, "instructions")
    message = str(caught.value)
    assert message.startswith("4 problems:")
    for key in values:
        assert f"instructions.{key}" in message
    assert parse(InstructionRows, json.loads("{}"), "instructions").seed == 123
