"""People's own files, good and bad."""

import json
from collections import Counter
from pathlib import Path

import pytest

from gpt2.errors import UserError
from gpt2.sources.local_files import FileInstructions, read_documents, read_instructions
from gpt2.sources.records import Document

PARAMS = FileInstructions(source="file", path="alpaca.json", seed=123, test_fraction=0.1)
ALPACA = [
    {"instruction": f"Say {n}.", "input": "" if n % 2 else "aloud", "output": str(n), "text": "-"}
    for n in range(1000)
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    text = "To be, or not to be.\r\n\nThat is « the question ».\n"
    path = write(tmp_path / "play.txt", text)
    assert read_documents(path) == [Document("play.txt", text)]
    assert read_documents(write(path, b"\xef\xbb\xbf" + text.encode()))[0].text == text


@pytest.mark.parametrize("layout", ["{}\n{}\n\n", "[{}, {}]"])
def test_json_holds_a_document_each(tmp_path: Path, layout: str) -> None:
    rows = [{"text": "One\u2028line"}, {"name": "b", "text": "Two", "year": 1999}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = write(tmp_path / "corpus.jsonl", layout.format(*lines))
    assert read_documents(path) == [
        Document("corpus.jsonl:1", "One\u2028line"),
        Document("b", "Two"),
    ]


@pytest.mark.parametrize("lines", [True, False])
def test_instructions_with_their_splits(tmp_path: Path, lines: bool) -> None:
    text = "\n".join(map(json.dumps, ALPACA)) if lines else json.dumps(ALPACA, indent=2)
    path = write(tmp_path / "alpaca.json", text)
    records = read_instructions(path, PARAMS)
    assert [record[:3] for record in records] == [
        (row["instruction"], row["input"], row["output"]) for row in ALPACA
    ]
    assert records[4].name == "alpaca.json:5"
    assert records[4].kind == "instruction"
    counts = Counter(record.split for record in records)
    assert counts["test"] == pytest.approx(100, abs=25)
    assert counts["validation"] == pytest.approx(20, abs=12)


def test_equal_questions_share_a_split_whatever_stands_around_them(tmp_path: Path) -> None:
    path = write(tmp_path / "alpaca.json", json.dumps(ALPACA))
    before = [record.split for record in read_instructions(path, PARAMS)]
    again = [{**row, "instruction": row["instruction"].upper() + " "} for row in ALPACA]
    write(path, json.dumps([*again, *ALPACA]))
    assert [record.split for record in read_instructions(path, PARAMS)] == before * 2


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    rows = [
        ALPACA[0],
        {"instruction": "Say it.", "output": " \n"},
        {"instruction": 3, "input": None, "output": "x"},
        {"output": "x"},
        {"instruction": "\ud800", "output": "x"},
    ]
    write(tmp_path / "list.json", json.dumps(rows))
    write(tmp_path / "lines.jsonl", "\n".join([*map(json.dumps, rows), "{'a': 1}", ""]))
    for name, where in {"list.json": "record", "lines.jsonl": "line"}.items():
        with pytest.raises(UserError) as caught:
            read_instructions(tmp_path / name, PARAMS)
        first, *problems = str(caught.value).splitlines()
        assert first == f"{tmp_path / name}: {len(problems)} problem(s)"
        assert problems[0] == f"  {where} 2: 'output' is empty"
        assert problems[1].startswith(f"  {where} 3: 'instruction': Input should be a valid string")
        assert problems[2].startswith(f"  {where} 3: 'input': Input should be a valid string")
        assert problems[3] == f"  {where} 4: 'instruction': Field required"
        assert problems[4].startswith(f"  {where} 5: 'instruction': ")
        assert "unicode" in problems[4]
        assert len(problems) == (6 if where == "line" else 5)
    assert problems[5].startswith("  line 6: not valid JSON (Expecting property name")


def test_a_flood_of_problems_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "flood.jsonl", "{}\n" * 500)
    with pytest.raises(UserError, match=r"1,000 problem\(s\)") as caught:
        read_instructions(path, PARAMS)
    assert len(str(caught.value).splitlines()) == 22
    assert str(caught.value).endswith("and 980 more")


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b'{"text": "Gr\xfc\xdfe"}', r"byte 12 \(0xfc\) is not UTF-8"),
    ],
)
def test_files_that_are_no_corpus(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_documents(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "an empty list"),
        ('[{"text": "a"}, 3]', "1 problem.*\n  record 2: Input should be a valid dictionary"),
        ('[{"text": "a"}', r"not valid JSON \(Expecting ',' delimiter: line 1 column 15"),
        ('{"text": ""}', "1 problem.*\n  line 1: 'text' is empty"),
    ],
)
def test_json_that_holds_no_documents(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_documents(write(tmp_path / "corpus.json", content))
