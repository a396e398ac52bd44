import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt
from gpt2.data.records import InstructionRecord, Split
from gpt2.evaluation.responses import choose_records, plot, score_by_kind
from gpt2.inference.responses import GenerateResponsesParams, answer
from tests.our_model import write_our_model


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
    chosen = choose_records(RECORDS, 5, seed=1)
    assert [r.kind for r in chosen] == ["a"] * 5 + ["b"] * 5
    assert all(r.split == "test" for r in chosen)
    assert chosen == choose_records(RECORDS, 5, seed=1)
    assert chosen != choose_records(RECORDS, 5, seed=2)
    assert len(choose_records(RECORDS, None, seed=1)) == 60


def test_no_test_record_is_an_error():
    with pytest.raises(UserError, match="no record in the test split"):
        choose_records([record(1, split="train")], None, seed=1)


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


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    text = prompt("Describe.", "def package.do_thing()")
    return write_our_model(place, text, context_length=64, seed=1)


def exact(**sampling: object) -> GenerateResponsesParams:
    return GenerateResponsesParams(
        max_new_tokens=20, device="cpu", dtype="float32", batch_size=2, **sampling
    )


def test_a_record_longer_than_the_context_is_answered_by_its_end_or_refused(model_dir, caplog):
    long = record(1)._replace(input="def package.do_thing() " * 50)
    longer = long._replace(input="something else " + long.input)
    [first, second, other] = answer(model_dir, [long, longer, record(2)], exact(), "model")
    assert first == second
    assert all((first, other))
    assert "(2 of 3 are too long): only its end is read" in caplog.text
    with pytest.raises(UserError, match=r"prompt 1 has .* the model's context 64"):
        answer(model_dir, [record(2), long], exact(strict=True), "model")


def test_an_answer_ends_with_a_stop_string(model_dir):
    [whole] = answer(model_dir, [record(1)], exact(), "model")
    stop = whole[2:4]
    [cut] = answer(model_dir, [record(1)], exact(stop=["never there", stop]), "model")
    assert whole.startswith(cut)
    assert stop in cut
    assert len(cut) < len(whole)
    [varied] = answer(model_dir, [record(1)], exact(repetition_penalty=2.0), "model")
    assert varied != whole


def test_kinds_of_any_name_are_one_field_of_the_plot():
    kinds = ["writing, creative", 'the "rest"', "two\nlines", "a;b", "100%", "摘要", ""]
    scores = {"chrf": 1.0, "rouge_l": 0.5, "exact_match": 0.0}
    text = plot({kind: {"n": 1, "finetuned": scores, "base": scores} for kind in kinds})
    for rows in (csv.DictReader(io.StringIO(text)), pandas_rows(text)):
        assert [tuple(row.values()) for row in rows] == [
            (kind, answerer, "1.00", "0.50", "0.00")
            for kind in kinds
            for answerer in ("finetuned", "base")
        ]


def pandas_rows(text: str) -> list[dict[str, str]]:
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
