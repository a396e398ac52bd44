"""Every kind of JSON: lists, lines, objects one after another, tables as pandas writes them."""

import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import Reader
from gpt2.data.parsing.rows import Row

WANTED = Wanted(
    {name: name for name in ("instruction", "input", "output")}, ("instruction", "output")
)
RECORDS = [
    {"instruction": f'Say {n} {{["', "input": None if n % 2 else "x", "output": f'"{n}"\\'}
    for n in range(12)
]


def rows(content: str, wanted: Wanted = WANTED, **keys: object) -> list[Row]:
    return list(Reader(wanted, "json", **keys).rows("a.json", BytesIO(content.encode())))


@pytest.mark.parametrize(
    "keys",
    [
        *({"orient": orient} for orient in ("columns", "index", "records", "split", "table")),
        {"orient": "records", "lines": True},
        {"orient": "columns", "indent": 2},
        {"orient": "index", "indent": 4},
        {"orient": "split", "indent": 1},
        {"orient": "records", "indent": 2},
    ],
    ids=str,
)
def test_what_pandas_writes_is_read_in_every_orient(keys: dict[str, object]) -> None:
    text = pd.DataFrame(RECORDS).to_json(**keys)
    assert text is not None
    found = [row.value for row in rows(text)]
    extra = {"index"} if keys["orient"] == "table" else set()
    assert [{k: v for k, v in row.items() if k not in extra} for row in found] == RECORDS


def test_rows_without_names_are_named_by_their_indices() -> None:
    text = pd.DataFrame(RECORDS).to_json(orient="values")
    wanted = Wanted({"instruction": "[0]", "output": "[2]"}, ("instruction", "output"))
    assert [row.value for row in rows(text, wanted)] == [[*row.values()] for row in RECORDS]


def test_one_row_is_a_table_too() -> None:
    for orient in ("columns", "index", "split"):
        text = pd.DataFrame(RECORDS[:1]).to_json(orient=orient)
        assert [row.value for row in rows(text)] == RECORDS[:1]


@pytest.mark.parametrize("field", ["data", "records", "rows", "examples", "items"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_around_the_records(field: str, indent: int | None) -> None:
    text = json.dumps({"version": "1.0", field: RECORDS, "notes": ["a"]}, indent=indent)
    found = rows(text)
    assert [row.value for row in found] == RECORDS
    assert found[1] == Row("a.json:2", "record 2", RECORDS[1])


def test_the_only_list_of_records_may_have_any_name() -> None:
    for table in ({"train": RECORDS}, {"n": 12, "Sheet1": RECORDS, "tags": []}):
        assert [row.value for row in rows(json.dumps(table))] == RECORDS
    for table in ({"train": RECORDS, "test": RECORDS}, {"turns": [{"role": "user"}]}):
        assert [row.value for row in rows(json.dumps(table))] == [table]


def test_csv_that_is_called_json_is_reported() -> None:
    for text in ("instruction,output\na,b\n", 'id;"instruction";"output"\n1;a;b\n'):
        (row,) = rows(text)
        assert row.problem == "CSV, not JSON. Rename it, or in params.yaml: format: csv"
        found = list(Reader(WANTED, "json", format="csv").rows("a.json", BytesIO(text.encode())))
        assert not any(row.problem for row in found)


def test_a_single_record_is_no_table() -> None:
    for record in (
        {"instruction": "a", "output": "b"},
        {"instruction": ["a"], "output": "b"},
        {"instruction": {"a": "b"}, "output": {"c": "d"}},
        {"data": [1], "output": "b"},
    ):
        wanted = Wanted({**WANTED.paths, "input": "data"}, WANTED.required)
        assert [row.value for row in rows(json.dumps(record), wanted)] == [record]
    turns = {"conversations": [{"from": "human", "value": "a"}]}
    wanted = Wanted({"conversation": "conversations"}, ("conversation",))
    assert [row.value for row in rows(json.dumps(turns), wanted)] == [turns]
    nested = {"a": {"b": "c"}, "d": {"b": "e"}}
    wanted = Wanted({"instruction": "a.b", "output": "d.b"}, WANTED.required)
    assert [row.value for row in rows(json.dumps(nested), wanted)] == [nested]
    table = {name: {"0": column, "1": column} for name, column in nested.items()}
    assert [row.value for row in rows(json.dumps(table), wanted)] == [nested] * 2


@pytest.mark.parametrize("indent", [0, 1, 2, "\t"])
@pytest.mark.parametrize("between", ["\n", "", " ", "\n\n\n", "\r\n"])
def test_objects_one_after_another(indent: int | str, between: str) -> None:
    nested = [{**row, "more": {"list": [{"a": [1, {}]}, []], "é": "\u2028"}} for row in RECORDS]
    text = between.join(json.dumps(row, indent=indent, ensure_ascii=False) for row in nested)
    found = rows("\ufeff" + text)
    assert [row.value for row in found] == nested
    assert [row.name for row in found] == [f"a.json:{n}" for n in range(1, 13)]


def test_several_objects_on_a_line() -> None:
    text = "".join(map(json.dumps, RECORDS[:5])) + "\n" + " ".join(map(json.dumps, RECORDS[5:]))
    assert [row.value for row in rows(text)] == RECORDS


def test_an_object_without_an_end_costs_no_other_one() -> None:
    whole = json.dumps(RECORDS[0], indent=2)
    cut = whole.replace('{\n  "inst', '{\n  "more": {"a": 1},\n  "inst').removesuffix("\n}")
    found = rows("\n".join([whole, cut, whole, '{\n  "a": oops\n}', whole]))
    assert [row.value for row in found if row.value] == [RECORDS[0]] * 3
    assert [row.place for row in found if row.problem] == [
        "record 2 (line 6)",
        "record 4 (line 16)",
    ]
    assert all(row.problem.startswith("not valid JSON (") for row in found if row.problem)


def test_a_damaged_first_line_costs_no_other_one() -> None:
    for damaged in ('{"instruction": "Say', '{"a": oops}', "{'a': 1}", "[" * 5000):
        *_, last = rows(json.dumps(RECORDS[0]) + f"\n{damaged}\n" + json.dumps(RECORDS[1]))
        assert last.value == RECORDS[1]
        if not damaged.startswith("["):
            first, last = rows(f"{damaged}\n" + json.dumps(RECORDS[1]))
            assert first.place == "line 1"
            assert last.value == RECORDS[1]


def test_objects_of_many_lines_must_fit_into_memory() -> None:
    good = json.dumps(RECORDS[0], indent=1)
    first, last = rows(good + "\n{\n" + '"a": 1,\n' * 1000, largest=500)
    assert first.value == RECORDS[0]
    assert "too many to hold in memory" in last.problem


def test_many_quotation_marks_take_no_time() -> None:
    line = '"a": "' + '\\"' * 200_000
    (row,) = rows("{\n" + line + "\n")
    assert row.problem.startswith("not valid JSON (")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_datasets_library_reads_the_same(tmp_path: Path, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    table = pd.DataFrame(RECORDS)
    path = tmp_path / f"a.{suffix}"
    table.to_json(path, orient="records", lines=suffix == "jsonl")
    peer = datasets.load_dataset(
        "json", data_files=str(path), split="train", streaming=True, cache_dir=str(tmp_path)
    )
    assert [row.value for row in rows(path.read_text())] == list(peer)


def test_the_datasets_library_reads_the_same_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    nested = pd.DataFrame([{**row, "meta": {"list": [{"x": row["output"]}]}} for row in RECORDS])
    nested.to_parquet(path)
    peer = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=True, cache_dir=str(tmp_path)
    )
    wanted = Wanted({"instruction": "instruction", "output": "meta.list[0].x"}, WANTED.required)
    reader = Reader(wanted, "json")
    with path.open("rb") as file:
        found = [row.value for row in reader.rows("a.parquet", file)]
    assert found == [{k: row[k] for k in ("instruction", "meta")} for row in peer]
