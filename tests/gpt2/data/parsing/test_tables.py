"""CSV in every dialect that pandas writes, against pandas; Parquet is in test_formats.py."""

import csv
import random
import tracemalloc
from io import BytesIO, StringIO

import pandas as pd
import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import Reader
from gpt2.data.parsing.rows import Row
from gpt2.data.parsing.tables import CsvParams

WANTED = Wanted(
    {name: name for name in ("instruction", "input", "output", "kind")}, ("instruction", "output")
)
TABLE = pd.DataFrame(
    {
        "id": [7, 8, 9, 10, 11],
        "instruction": [
            "Say hi.",
            'Say "hi", loudly; or not\tat all | ever.',
            "Two\nlines, and\r\nthree",
            "It's 'quoted' é 中文\u2028",
            "0123",
        ],
        "input": ["", "x, y", None, "nan", "-1.50"],
        "output": ["hi", '"HI"', "a\\b\\", "it''s", "1e5"],
    }
)


def rows(content: bytes, name: str = "a.csv", wanted: Wanted = WANTED, **keys: object) -> list[Row]:
    return list(Reader(wanted, "json", csv=CsvParams(**keys)).rows(name, BytesIO(content)))


def written(table: pd.DataFrame, encoding: str = "utf-8", **keys: object) -> bytes:
    file = StringIO()
    table.to_csv(file, **keys)
    return file.getvalue().encode(encoding)


DIALECTS: dict[str, tuple[dict[str, object], dict[str, object], dict[str, object]]] = {
    "as it is": ({}, {}, {}),
    "no index": ({"index": False}, {}, {}),
    "semicolons": ({"sep": ";"}, {}, {"sep": ";"}),
    "tabs": ({"sep": "\t", "index": False}, {}, {"sep": "\t"}),
    "pipes": ({"sep": "|"}, {}, {"sep": "|"}),
    "colons": ({"sep": ":"}, {"delimiter": ":"}, {"sep": ":"}),
    "all quoted": ({"quoting": csv.QUOTE_ALL}, {}, {}),
    "text quoted": ({"quoting": csv.QUOTE_NONNUMERIC, "index": False}, {}, {}),
    "single quotes, told": (
        {"quotechar": "'", "quoting": csv.QUOTE_ALL}, {}, {"quotechar": "'"},
    ),
    "single quotes": ({"quotechar": "'"}, {"quote": "'"}, {"quotechar": "'"}),
    "escaped quotes": (
        {"doublequote": False, "escapechar": "\\"}, {"escape": "\\"}, {"escapechar": "\\"},
    ),
    "lines of Windows": ({"lineterminator": "\r\n"}, {}, {}),
    "lines of old Macs": ({"lineterminator": "\r"}, {}, {}),
    "byte order mark": ({"encoding": "utf-8-sig", "index": False}, {}, {}),
    "byte order mark and quotes": (
        {"encoding": "utf-8-sig", "quoting": csv.QUOTE_ALL, "index": False}, {}, {},
    ),
    "no header": (
        {"header": False, "index": False},
        {"header": False},
        {"header": None, "names": list(TABLE)},
    ),
    "index with a name": ({"index_label": "nr"}, {}, {}),
}  # fmt: skip
"""How pandas writes it, what we are told of it, what pandas must be told to read it."""


@pytest.mark.parametrize("name", DIALECTS)
def test_pandas_reads_the_same(name: str) -> None:
    how, ours, theirs = DIALECTS[name]
    content = written(TABLE, **how)
    peer = pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False, **theirs)
    wanted = WANTED
    if name == "no header":
        wanted = WANTED._replace(paths={name: str(n) for n, name in enumerate(TABLE)})
        peer.columns = [str(n) for n in range(len(TABLE.columns))]
    if name != "no header":
        peer = peer.rename(columns={"Unnamed: 0": ""})
    found = rows(content, wanted=wanted, **ours)
    assert [row.value for row in found] == peer.to_dict("records")
    assert not any(row.problem for row in found)
    assert [row.name for row in found] == [f"a.csv:{n}" for n in range(1, 6)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_pandas_reads_the_same_of_any_text(quoting: int) -> None:
    draw = random.Random(quoting)
    characters = [
        *",;\t|\"'\n\\ab é1.#\u2028\x0b\x1c",
        *(["\r"] if quoting == csv.QUOTE_ALL else []),
    ]
    text = lambda: "".join(draw.choices(characters, k=draw.randint(0, 8)))  # noqa: E731
    for _ in range(100):
        sep, index, end = draw.choice(",;\t|"), draw.random() < 0.5, draw.choice(["\n", "\r\n"])
        size = draw.randint(1, 4)
        table = pd.DataFrame(
            {"id": range(size), **{name: [text() for _ in range(size)] for name in WANTED.required}}
        )
        content = written(table, sep=sep, quoting=quoting, index=index, lineterminator=end)
        peer = pd.read_csv(BytesIO(content), sep=sep, dtype=str, keep_default_na=False)
        peer = peer.rename(columns={"Unnamed: 0": ""})
        assert [row.value for row in rows(content)] == peer.to_dict("records")


def test_without_quoting_as_pandas_reads_it() -> None:
    content = b'instruction\toutput\nSay "hi"\t"hi" said\n"Open\tend\n'
    peer = pd.read_csv(BytesIO(content), sep="\t", quoting=csv.QUOTE_NONE, dtype=str)
    found = rows(content, "a.tsv", quote="none")
    assert [row.value for row in found] == peer.to_dict("records")
    (row,) = rows(content, "a.tsv")
    assert row.problem.startswith("line 2: not valid CSV (")
    assert "csv: {quote: none}" in row.problem


def test_the_place_is_that_of_the_row_and_its_first_line() -> None:
    found = rows(written(TABLE, index=False))
    assert [row.place for row in found] == [
        "row 1 (line 2)",
        "row 2 (line 3)",
        "row 3 (line 4)",
        "row 4 (line 7)",
        "row 5 (line 8)",
    ]


@pytest.mark.parametrize("suffix", [".tsv", ".tab", ".TSV"])
def test_tabs_are_what_the_suffix_says(suffix: str) -> None:
    text = b"instruction\tinput,output,kind\toutput\nSay, hi\tx\tHi\n"
    assert rows(text, f"a{suffix}")[0].value == {
        "instruction": "Say, hi",
        "input,output,kind": "x",
        "output": "Hi",
    }


def test_rows_with_other_numbers_of_fields_are_reported_and_the_others_read() -> None:
    text = b"instruction,output\na,b\nc\nd,e,f\n\n,\ng,h\n"
    good, short, long, empty, last = rows(text)
    assert good.value == {"instruction": "a", "output": "b"}
    assert short.place == "row 2 (line 3)"
    assert short.problem.startswith("1 field(s), but the first line has 2. ")
    assert long.problem.startswith("3 field(s), but the first line has 2. ")
    assert "within quotation marks" in long.problem
    assert empty.value == {"instruction": "", "output": ""}
    assert last.place == "row 5 (line 7)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"instruction,output\n", "names of columns, but no rows"),
        (b"instruction,output\n\n\n", "names of columns, but no rows"),
        (b"instruction,answer\na,b\n", "no column 'output', only instruction, answer. "),
        (b"a;b;c\n1;2;3\n", "no column 'instruction' and 'output', only a, b, c. "),
        (b'[{"instruction": "a", "output": "b"}]', "JSON, not CSV. Rename it, or in params.yaml"),
        (b'{"instruction": "a", "output": "b"}\n', "JSON, not CSV. Rename it, or in params.yaml"),
        (b"text\nOne\n", "no column 'instruction' and 'output', only text. "),
        (b"instruction, output\na,b\n", "no column 'output', only instruction, ' output'. "),
        (b"a;b,c\td\n", "line 1: 'a;b,c\\td' may be delimited by ',' or ';' or '\\t'. "),
        (
            b"instruction,output,note,note\na,b,c,d\n",
            "line 1: several columns are called 'note'. Rename all but one",
        ),
        (b"instruction,output\na,b\nc,d\xff\n", "line 3: byte 3 (0xff) is not UTF-8"),
        ("instruction,output\na,b\n".encode("utf-16"), "line 1: byte 0 (0xff) is not UTF-8"),
        (b"instruction,output\na\0,b\n", "line 2: byte 1 is 0"),
        (b'instruction,output\na,"b\n', "line 2: not valid CSV (unexpected end of data)"),
        (b'instruction,output\na,"b"c\n', "line 2: not valid CSV ("),
    ],
)
def test_what_is_wrong_with_a_file(content: bytes, message: str) -> None:
    *_, last = rows(content)
    assert last.value is None
    assert last.problem.startswith(message), last.problem


def test_a_first_line_that_fits_two_delimiters_is_an_error() -> None:
    content = b"Say hi,Hi;there\n"
    wanted = WANTED._replace(paths={"instruction": "0", "output": "1"})
    (row,) = rows(content, wanted=wanted, header=False)
    assert "may be delimited by ',' or ';'" in row.problem
    assert 'csv: {delimiter: ","}' in row.problem
    (row,) = rows(content, wanted=wanted, header=False, delimiter=";")
    assert row.value == {"0": "Say hi,Hi", "1": "there"}


def test_one_column_needs_no_delimiter() -> None:
    wanted = Wanted({"text": "text"}, ("text",))
    found = rows(b'text\nOne\n"Two, three"\n', wanted=wanted)
    assert [row.value for row in found] == [{"text": "One"}, {"text": "Two, three"}]


def test_fields_longer_than_the_standard_library_allows_are_read() -> None:
    long = "long text, " * 50_000
    table = pd.DataFrame({"instruction": ["a"], "output": [long]})
    assert rows(written(table))[0].value["output"] == long


def test_a_quotation_mark_that_is_never_closed_takes_no_more_memory_than_allowed() -> None:
    content = b'instruction,output\na,"b\n' + b"c,d\n" * 500_000
    reader = Reader(WANTED, "json", largest=10_000)
    tracemalloc.start()
    (row,) = reader.rows("a.csv", BytesIO(content))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "too many to hold in memory" in row.problem
    assert most < 1_000_000


def test_parameters_are_strict() -> None:
    with pytest.raises(UserError) as caught:
        parse(CsvParams, {"delimiter": ", ", "quote": "`", "header": "yes"}, "csv")
    assert str(caught.value).startswith("3 problems:")
    for same in ({"delimiter": "'", "quote": "'"}, {"escape": "|", "delimiter": "|"}):
        with pytest.raises(UserError, match="must be different characters"):
            parse(CsvParams, same, "csv")
    with pytest.raises(UserError, match="delimiter"):
        parse(CsvParams, {"delimiter": "\n"}, "csv")
