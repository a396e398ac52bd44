"""Odd corpora and instructions through the real stages: not a token is lost, or the place is told.

Further cases stand with what they are about: sources, judge, downloads, tracking.
"""

import json
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from gpt2.core.files import read_json, read_manifest
from gpt2.data.instructions import load_records
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from stages import download, tokenize
from tests import yaml12
from tests.file_server import serving

MEGABYTE = 10**6
VAL_FRACTION = 0.2
RECORDS = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(60)]
SENTENCES = [f"The {n}th line of {n % 7} has {n * n} words, or so.\n" for n in range(200)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a judge that nobody loads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("own.gguf").write_bytes(b"GGUF")
    return tmp_path


def fetch(
    corpus: dict[str, Any] | None = None, instructions: dict[str, Any] | None = None
) -> Result:
    """The stage download on ``own.txt`` and ``own.json``, or what is said instead."""
    if not Path("own.json").exists():
        Path("own.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    if not Path("own.txt").exists():
        Path("own.txt").write_text("".join(SENTENCES), encoding="utf-8")
    sections = {
        "corpus": {"source": "file", **(corpus or {"path": "own.txt"})},
        "instructions": {"source": "file", "path": "own.json", **(instructions or {})},
        "tokenizer": {"kind": "bpe", "vocab_size": 400},
        "judge": {"backend": "llamacpp", "model": {"file": "own.gguf"}},
        "tokenize": {"val_fraction": VAL_FRACTION, "seed": 1, "shard_tokens": 500},
    }
    Path("params.yaml").write_text(yaml12.dumps(sections), encoding="utf-8")
    places = "--corpus-dir=raw --instructions-file=instructions.jsonl"
    return CliRunner().invoke(
        download.main, f"{places} --tokenizer-dir=raw-tokenizer --judge-dir=judge"
    )


def shards() -> Result:
    """The stage tokenize on what was fetched."""
    places = "--corpus-dir=raw --raw-tokenizer-dir=raw-tokenizer"
    return CliRunner().invoke(tokenize.main, f"{places} --tokenizer-dir=bpe --tokens-dir=tokens")


def succeeded(result: Result) -> None:
    assert result.exit_code == 0, result.output


def refused(result: Result, *parts: str) -> None:
    """One message with all ``parts``, and no output, whole or half."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert [part for part in parts if part not in result.stderr] == []
    for name in ("raw", "instructions.jsonl", "tokens", "metrics"):
        assert not Path(name).exists()
    assert not list(Path().rglob("*.tmp"))


def conserved(texts: list[str], split: str) -> None:
    """The shards hold the texts' tokens, as the tokenizer gives them, and no others."""
    tokenizer = Tokenizer.load(Path("bpe"))
    parts = texts
    if split == "position":
        ends = [int(len(text) * (1 - VAL_FRACTION)) for text in texts]
        parts = [text[:end] for text, end in zip(texts, ends, strict=True)]
        parts += [text[end:] for text, end in zip(texts, ends, strict=True)]
    direct = sum(len(tokenizer.encode(part)) + 1 for part in parts)
    tokens = [shard["column"].to_pylist() for shard in arrow_shards()]
    assert sum(map(len, tokens)) == direct
    stated = read_manifest(Path("tokens"))["splits"].values()
    assert sum(facts["tokens"] for facts in stated) == direct
    assert sum(facts["text_bytes"] for facts in stated) == sum(len(t.encode()) for t in texts)
    decoded = tokenizer.decode([token for shard in tokens for token in shard])
    assert sorted(decoded) == sorted("".join([END_OF_TEXT + part for part in parts]))


def arrow_shards() -> list[dict[str, Any]]:
    """All shards as the Arrow library itself reads them, train first."""
    paths = [*sorted(Path("tokens/train").iterdir()), *sorted(Path("tokens/validation").iterdir())]
    return [{"column": pa.ipc.open_file(str(path)).read_all().column(0)} for path in paths]


def jsonl(*texts: str, ensure_ascii: bool = False) -> bytes:
    lines = (json.dumps({"text": text}, ensure_ascii=ensure_ascii) + "\n" for text in texts)
    return "".join(lines).encode()


ODD = {
    "a text that is the mark": END_OF_TEXT,
    "marks in a text": f"{END_OF_TEXT}One{END_OF_TEXT}{END_OF_TEXT} two<|endoftext",
    "NUL": "a\0b\0\0",
    "other control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u2029\ufeff",
    "all sorts of characters": "é \u0301 \U0001f600 \ufffe \ufffd \u200d 中文 \U0010ffff",
    "white space": " x\r\n\r\n\t  y" + " " * 3000,
    "one long word": "x" * 5000,
    "longer than shards": "".join(SENTENCES),
}
"""Texts of documents, by what is odd about them."""


@pytest.mark.parametrize("escaped", [False, True])
def test_odd_documents_keep_all_their_tokens(escaped: bool) -> None:
    texts = [*ODD.values(), *SENTENCES]
    Path("own.jsonl").write_bytes(jsonl(*texts, ensure_ascii=escaped))
    succeeded(fetch({"path": "own.jsonl"}))
    succeeded(shards())
    conserved(texts, "hash")


@pytest.mark.parametrize("name", [name for name in ODD if name != "NUL"])
def test_one_odd_document_keeps_all_its_tokens(name: str) -> None:
    text = ODD[name] + "\nThe end.\n"
    Path("own.txt").write_bytes(text.encode())
    succeeded(fetch({"path": "own.txt", "document_separator": "none"}))
    succeeded(shards())
    conserved([text.removeprefix("\ufeff")], "position")


REFUSED: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty": ("own.txt", b"", ("own.txt: empty. Give it text",)),
    "blank": ("own.txt", b"\n \t\r\n", ("own.txt: empty. Give it text",)),
    "no lines": ("own.jsonl", b"\n\n", ("own.jsonl: empty. Give it text",)),
    "no records": ("own.json", b"[]", ("own.json: an empty list",)),
    "not UTF-8": ("own.txt", "Grüße".encode("latin-1"), ("own.txt: byte 2 (0xfc) is not UTF-8",)),
    "UTF-16": ("own.txt", "One".encode("utf-16"), ("own.txt: byte 0 (0xff) is not UTF-8",)),
    "half a character": ("own.txt", "aé".encode()[:-1], ("own.txt: byte 1 (0xc3) is not UTF-8",)),
    "a surrogate in bytes": ("own.txt", b"a\xed\xa0\x80", ("own.txt: byte 1 (0xed) is not UTF-8",)),
    "NUL": ("own.txt", b"One\0", ("own.txt: byte 3 is 0",)),
    "one line of many": (
        "own.jsonl",
        jsonl("One") + b'{"text": "\xff"}\n' + jsonl("Three"),
        ("own.jsonl: 1 problem(s)", "line 2: byte 10 (0xff) is not UTF-8"),
    ),
    "a surrogate as an escape": (
        "own.jsonl",
        jsonl("One") + b'{"text": "a\\ud83d"}\n{"text": "\\udc00b"}\n',
        ("own.jsonl: 2 problem(s)", "line 2: 'text'", "line 3: 'text'", "unicode"),
    ),
    "cut": ("own.jsonl", jsonl("One") + b'{"text": "Tw', ("line 2: not valid JSON",)),
}
"""File, content and what is said of it, by what is wrong with it."""


@pytest.mark.parametrize(("name", "content", "parts"), REFUSED.values(), ids=REFUSED)
def test_a_bad_corpus_is_refused_with_its_place(
    name: str, content: bytes, parts: tuple[str, ...]
) -> None:
    Path("corpus").mkdir()
    Path("corpus", name).write_bytes(content)
    refused(fetch({"path": f"corpus/{name}"}), *parts)


def test_two_halves_of_a_character_as_escapes_are_one() -> None:
    Path("own.jsonl").write_bytes(b'{"text": "a\\ud83d\\ude00"}\n' + jsonl(*SENTENCES))
    succeeded(fetch({"path": "own.jsonl"}))
    succeeded(shards())
    conserved(["a\U0001f600", *SENTENCES], "hash")


def test_bad_documents_are_skipped_and_counted_if_so_wished() -> None:
    bad = b'{"text": "\\ud83d"}\n{"text": "\xff"}\n{"text": " "}\n{"text": 3}\n{}\n[]\n{\n'
    Path("own.jsonl").write_bytes(bad + jsonl(*SENTENCES))
    refused(fetch({"path": "own.jsonl"}), "7 problem(s)", *(f"line {n}: " for n in range(1, 8)))
    succeeded(fetch({"path": "own.jsonl", "on_bad_record": "skip"}))
    assert read_manifest(Path("raw"))["skipped"] == 7
    succeeded(shards())
    conserved(SENTENCES, "hash")


def test_a_file_name_that_is_not_utf8_is_told() -> None:
    Path("texts").mkdir()
    try:
        Path("texts", "caf\udce9.txt").write_text("One", encoding="utf-8")
    except OSError:
        pytest.skip("a file system of UTF-8 names only")
    refused(fetch({"path": "texts"}), r"caf\xe9.txt': this name is not UTF-8. Rename it")


@pytest.mark.parametrize(
    ("name", "code"), [("../../evil.txt", 1), ("a/../../evil.txt", 1), ("/evil.txt", 0)]
)
def test_a_name_in_an_archive_is_no_place(place: Path, name: str, code: int) -> None:
    with zipfile.ZipFile("own.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "".join(SENTENCES))
    before = {*place.rglob("*")}
    with serving(place) as server:
        result = fetch({"source": "url", "url": f"{server}/own.zip"})
    assert result.exit_code == code
    assert "Traceback" not in result.output
    ours = ("raw", "judge", ".cache", "metrics", "data", "instructions", "own", "params")
    new = {path.relative_to(place).parts[0] for path in {*place.rglob("*")} - before}
    assert [part for part in new if not part.startswith(ours)] == []
    assert not Path("/evil.txt").exists()


@pytest.mark.faults
def test_one_line_of_200_megabytes_keeps_all_its_tokens() -> None:
    line = "".join(sentence.rstrip("\n") for sentence in SENTENCES)
    text = line * (200 * MEGABYTE // len(line) + 1)
    assert "\n" not in text
    Path("own.txt").write_text(text, encoding="utf-8")
    succeeded(fetch())
    succeeded(shards())
    tokenizer = Tokenizer.load(Path("bpe"))

    def count(start: int, end: int) -> int:
        """Tokens of a part. Words are encoded one by one, so each repetition has as many."""
        more = (end - start) // len(line) - 2
        short = tokenizer.encode(text[start : end - more * len(line)])
        return len(short) + more * (
            len(tokenizer.encode(line * 3)) - len(tokenizer.encode(line * 2))
        )

    end = int(len(text) * (1 - VAL_FRACTION))
    direct = 1 + count(0, end) + 1 + count(end, len(text))
    assert sum(len(shard["column"]) for shard in arrow_shards()) == direct
    stated = read_manifest(Path("tokens"))["splits"].values()
    assert sum(facts["tokens"] for facts in stated) == direct
    assert sum(facts["text_bytes"] for facts in stated) == len(text)


LONG = "x y " * 25_000
BAD: list[tuple[object, str]] = [
    ({"input": "", "output": "x"}, "'instruction': Field required"),
    ({"instruction": "x", "input": ""}, "'output': Field required"),
    ({"instruction": "x", "output": 3}, "'output': Input should be a valid string"),
    ({"instruction": ["x"], "output": "x"}, "'instruction': Input should be a valid string"),
    ({"instruction": "x", "input": {}, "output": "x"}, "'input': Input should be a valid string"),
    ({"instruction": "x", "output": ""}, "'output' is empty"),
    ({"instruction": " \n", "output": "x"}, "'instruction' is empty"),
    ({"instruction": "\ud800", "output": "x"}, "'instruction': "),
    ("text", "Input should be a valid dictionary"),
    (None, "Input should be a valid dictionary"),
]
"""Records, and what is said of them."""


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_every_bad_record_is_told_at_once_or_skipped_and_counted(kind: str) -> None:
    good = [*RECORDS, {"instruction": LONG, "output": LONG}]
    values = [*good, *(value for value, _ in BAD)]
    join: Callable[[list[object]], str] = json.dumps
    if kind == "jsonl":
        join = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)  # noqa: E731
    Path("bad.json").write_text(join(values), encoding="utf-8")
    word = "record" if kind == "json" else "line"
    lines = [f"{word} {len(good) + n}: {problem}" for n, (_, problem) in enumerate(BAD, start=1)]
    result = fetch(instructions={"path": "bad.json"})
    refused(result, f"bad.json: {len(BAD)} problem(s)", *lines)

    skipping = {"path": "bad.json", "on_bad_record": "skip"}
    result = fetch(instructions=skipping)
    succeeded(result)
    assert f"{len(BAD)} of {len(values)} records skipped" in result.output
    assert read_json(Path("metrics/download.json"))["skipped_records"] == len(BAD)
    found = load_records(Path("instructions.jsonl"))
    expected = [(row["instruction"], row["output"]) for row in good]
    assert [(record.instruction, record.output) for record in found] == expected


def test_fields_that_nobody_reads_are_told() -> None:
    records = [{**row, "inptu": "a typo"} for row in RECORDS]
    Path("own.json").write_text(json.dumps(records), encoding="utf-8")
    result = fetch()
    succeeded(result)
    assert "own.json: fields not used: 'inptu'" in result.output


def test_questions_that_leak_into_another_split_are_named() -> None:
    again = [{**row, "output": "Another answer."} for row in RECORDS[:3]]
    Path("own.json").write_text(json.dumps([*RECORDS, *again]), encoding="utf-8")
    result = fetch(instructions={"split_by": "position"})
    succeeded(result)
    assert read_json(Path("metrics/download.json"))["questions_in_two_splits"] == 3
    assert "3 question(s) occur in more than one split" in result.output
    assert "own.json:1, own.json:61\n" in result.output
    succeeded(fetch())
    assert read_json(Path("metrics/download.json"))["questions_in_two_splits"] == 0


def test_records_with_every_kind_of_line_end_come_back() -> None:
    ends = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r\n\r\0b"
    records = [{**row, "output": f"{ends}{n}"} for n, row in enumerate(RECORDS)]
    Path("own.json").write_text(json.dumps(records), encoding="utf-8")
    succeeded(fetch())
    found = load_records(Path("instructions.jsonl"))
    assert [record.output for record in found] == [row["output"] for row in records]


@pytest.mark.faults
def test_a_tracking_server_that_hangs_costs_a_stage_seconds_and_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    succeeded(fetch())
    succeeded(shards())
    undisturbed = Path("metrics/tokenize.json").read_bytes()
    Path("metrics/tokenize.json").unlink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with_hangup = shards()
    succeeded(with_hangup)
    assert with_hangup.output.count("warning: tracking is off: ") == 1
    assert Path("metrics/tokenize.json").read_bytes() == undisturbed
