"""Empty values, values that are not text, and nested fields."""

import logging
from datetime import date
from decimal import Decimal
from io import BytesIO

import pandas as pd
import pytest

from gpt2.core.errors import UserError
from gpt2.data.parsing.field_paths import find, roots
from gpt2.data.parsing.fields import as_text
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.sources.own_data import documents, instruction_records
from gpt2.data.sources.row_params import CorpusRows, InstructionFiles, InstructionRows


def data(values: list[object]) -> RawData:
    rows = [Row(f"own:{n}", f"record {n}", value) for n, value in enumerate(values, start=1)]
    return RawData("own", rows, {})


def records(values: list[object], **keys: object) -> list[tuple[str, ...]]:
    found = instruction_records(data(values), InstructionRows(**keys)).records
    return [tuple(record[:4]) for record in found]


NESTED = {"a": {"b": "ab", "c.d": "c d"}, "list": [{"x": "first"}, {"x": "last"}], "a.b": "own"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", "own"),
        ("list[0].x", "first"),
        ("list[-1].x", "last"),
        ("list[1]", {"x": "last"}),
        ("a.c", None),
        ("list[2].x", None),
        ("list[-3].x", None),
        ("list.x", None),
        ("a[0]", None),
        ("a.b.c", None),
        ("none.b", None),
    ],
)
def test_paths_lead_into_fields(path: str, value: object) -> None:
    assert find(NESTED, path) == value


def test_a_path_may_begin_with_a_place() -> None:
    assert find([["a", {"x": "b"}]], "[0][1].x") == "b"
    assert find({"x y": {"é": "b"}}, "x y.é") == "b"
    assert roots(["a.b", "list[0].x", "[0]"]) == {"a.b", "a", "list[0].x", "list", "[0]"}


def test_nested_fields_become_records_and_documents() -> None:
    values: list[object] = [
        {"task": {"prompt": f"Say {n}."}, "answers": [{"text": str(n)}, {"text": "no"}]}
        for n in range(3)
    ]
    columns = {"instruction": "task.prompt", "output": "answers[0].text"}
    found = records(values, columns=columns)
    assert found == [(f"Say {n}.", "", str(n), "instruction") for n in range(3)]
    raw = data([{"meta": {"body": "One"}}, "Two"])
    assert [d.text for d in documents(raw, CorpusRows(column="meta.body"))] == ["One", "Two"]
    with pytest.raises(UserError, match=r"record 1: 'task\.prompt': Field required"):
        records([{"task": {"prompt": None}, "answers": [{"text": "a"}]}], columns=columns)


NAN = float("nan")


@pytest.mark.parametrize("nothing", [None, NAN, ""])
def test_null_is_an_absent_field(nothing: object) -> None:
    assert records([{"instruction": "a", "input": nothing, "output": "b", "kind": nothing}]) == [
        ("a", "", "b", "instruction")
    ]
    (document,) = documents(data([{"name": nothing, "text": "One"}]), CorpusRows())
    assert document.name == "own:1"
    for field in ("instruction", "output"):
        record = {"instruction": "a", "output": "b", field: nothing}
        with pytest.raises(UserError, match=f"'{field}'"):
            records([record])
    with pytest.raises(UserError, match="'text'"):
        list(documents(data([{"text": nothing}]), CorpusRows()))


def test_null_from_pandas_is_null_in_every_format() -> None:
    table = pd.DataFrame({"instruction": ["a", "b"], "input": [None, "x"], "output": ["c", "d"]})
    json, lines = table.to_json(), table.to_json(orient="records", lines=True)
    csv, parquet = table.to_csv(index=False), table.to_parquet()
    expected = [("a", "", "c", "instruction"), ("b", "x", "d", "instruction")]
    reader = InstructionFiles().reader()
    for name, content in {
        "a.json": json.encode(),
        "a.jsonl": lines.encode(),
        "a.csv": csv.encode(),
        "a.parquet": parquet,
    }.items():
        raw = RawData(name, reader.rows(name, BytesIO(content)), {})
        found = instruction_records(raw, InstructionRows()).records
        assert [tuple(record[:4]) for record in found] == expected


def test_inputs_that_mean_none_are_emptied_counted_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nothing = ["<noinput>", "N/A", "nan", "None", "<noInput>", " n/a\n", "NaN", "null", "NULL"]
    inputs = [*nothing, "Nancy", "none of them", "0", "no"]
    values: list[object] = [{"instruction": "a", "input": it, "output": "None"} for it in inputs]
    with caplog.at_level(logging.INFO, "gpt2"):
        found = instruction_records(data(values), InstructionRows())
    assert found.facts["emptied_inputs"] == len(nothing)
    assert [record.input for record in found.records] == [""] * len(nothing) + inputs[
        len(nothing) :
    ]
    assert {record.output for record in found.records} == {"None"}
    assert f"own: {len(nothing)} input(s) such as <noinput> or N/A taken as empty" in caplog.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        (Decimal("1.50"), "1.50"),
        (date(2020, 2, 3), "2020-02-03"),
        (["a", "b"], "a\nb"),
        ([1, None, True, ["x"]], "1\ntrue\nx"),
        ([], ""),
        ("a", "a"),
    ],
)
def test_what_is_no_text_becomes_text_if_so_wished(value: object, text: str) -> None:
    assert as_text(value) == text
    record = {"instruction": "a", "input": value, "output": "b"}
    assert records([record], coerce=True)[0][1] == text
    if not isinstance(value, str):
        with pytest.raises(UserError, match="'input': Input should be a valid string") as caught:
            records([record])
        hinted = not isinstance(value, Decimal | date)
        assert str(caught.value).endswith("coerce: true converts it") == hinted


@pytest.mark.parametrize("value", [{"a": 1}, ["a", {"b": 1}], b"\xff"])
def test_objects_are_no_text_in_any_case(value: object) -> None:
    with pytest.raises(UserError, match="'output': Input should be a valid "):
        records([{"instruction": "a", "output": value}], coerce=True)


def test_texts_of_several_paragraphs_become_documents() -> None:
    raw = data([{"text": ["One", "Two"]}, {"text": 1984}])
    assert [d.text for d in documents(raw, CorpusRows(coerce=True))] == ["One\nTwo", "1984"]


def test_a_field_is_not_read_twice() -> None:
    values: list[object] = [{"input": "Say hi.", "output": "Hi."}]
    found = records(values, columns={"instruction": "input"})
    assert found == [("Say hi.", "", "Hi.", "instruction")]
