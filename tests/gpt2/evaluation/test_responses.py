"""Test records to answer, and the scores and plots of their answers."""

import csv
import io

import pandas as pd
import pytest

from gpt2.core.errors import UserError
from gpt2.data.records import InstructionRecord, Split
from gpt2.evaluation.responses import (
    choose_test_records,
    response_rows,
    score_by_kind,
    scores_csv,
)


def record(index: int, kind: str = "describe", split: Split = "test") -> InstructionRecord:
    return InstructionRecord(
        instruction="Describe.",
        input=f"def package.do_thing_{index}()",
        output=f"Do thing {index}.",
        kind=kind,
        split=split,
        name=f"package.do_thing_{index}",
    )


RECORDS = [
    record(i, kind, split) for i in range(30) for kind in "ab" for split in ("train", "test")
]


def test_records_are_drawn_from_the_test_split_of_each_kind():
    chosen = choose_test_records(RECORDS, 5, seed=1)
    assert [r.kind for r in chosen] == ["a"] * 5 + ["b"] * 5
    assert all(r.split == "test" for r in chosen)
    assert chosen == choose_test_records(RECORDS, 5, seed=1)
    assert chosen != choose_test_records(RECORDS, 5, seed=2)
    assert len(choose_test_records(RECORDS, None, seed=1)) == 60


def test_no_test_record_is_an_error():
    with pytest.raises(UserError, match="no record in the test split"):
        choose_test_records([record(1, split="train")], None, seed=1)


def test_both_models_stand_beside_the_trivial_baselines():
    train = [record(7, split="train"), record(7, split="train"), record(8, split="train")]
    asked = [record(1), record(2)]
    answers = {"finetuned": ["Do thing 1.", "Do thing 2."], "base": ["", "Do thing 9."]}
    scores = score_by_kind(train, asked, answers)["describe"]
    assert scores["n"] == 2
    assert scores["finetuned"]["exact_match"] == scores["finetuned"]["chrf"] == 100
    assert scores["base"]["exact_match"] == 0
    # "Do thing 7." every time; and "do thing 1", "do thing 2".
    assert 0 < scores["most_frequent"]["chrf"] < 100
    assert scores["name_as_words"]["rouge_l"] == 100
    assert "name_as_words" not in score_by_kind(train, [record(1, "name")], {})["name"]


def test_a_row_has_the_record_and_the_answer_of_each_model():
    rows = response_rows([record(1), record(2, "name")], {"finetuned": ["a", "b"], "base": "cd"})
    assert rows[1] == {
        "id": 1,
        "kind": "name",
        "input": "def package.do_thing_2()",
        "reference": "Do thing 2.",
        "finetuned": "b",
        "base": "d",
        "name": "package.do_thing_2",
        "instruction": "Describe.",
    }
    assert list(rows[0]) == list(rows[1])


def test_a_kind_of_any_name_is_one_field_of_the_csv():
    kinds = ["writing, creative", 'the "rest"', "two\nlines", "a;b", "100%", "摘要", ""]
    scores = {"chrf": 1.0, "rouge_l": 0.5, "exact_match": 0.0}
    text = scores_csv({kind: {"n": 1, "finetuned": scores, "base": scores} for kind in kinds})
    for rows in (csv.DictReader(io.StringIO(text)), pandas_rows(text)):
        assert [tuple(row.values()) for row in rows] == [
            (kind, answerer, "1.00", "0.50", "0.00")
            for kind in kinds
            for answerer in ("finetuned", "base")
        ]


def pandas_rows(text: str) -> list[dict[str, str]]:
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
