"""docs/formats.md shows what its examples become; other sources give the same.

``python -m tests.test_formats_page`` prints its two tables.
"""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2.core.params import parse
from gpt2.data.records import Document
from gpt2.data.sources import own_data
from gpt2.data.sources.loading import load_rows
from gpt2.data.sources.params import CorpusParams, InstructionsParams
from gpt2.data.sources.row_params import CorpusRows
from scripts.deps import ROOT
from tests import yaml12
from tests.file_server import serving

PAGE = ROOT / "docs" / "formats.md"


class Example(NamedTuple):
    """A row of a table."""

    what: str
    suffix: str
    content: str
    params: str = ""
    """Further keys in params.yaml, beside source and path."""


CORPUS = [
    Example("text", ".txt", "One.\nTwo.\n"),
    Example("text, `<|endoftext|>` in it", ".txt", "One.\n<|endoftext|>\nTwo.\n"),
    Example("the same as one text", ".txt", "One.<|endoftext|>Two.", "document_separator: none"),
    Example("another separator", ".txt", "One.\n###\nTwo.", 'document_separator: "###"'),
    Example("blank lines", ".txt", "One.\n\n\nTwo.\n", "document_separator: blank-lines"),
    Example("Markdown as plain text", ".md", "# One\n*Two*\n"),
    Example("HTML", ".html", "<h1>One</h1><p>Two &amp; <b>three</b>"),
    Example("JSON Lines", ".jsonl", '{"text": "One."}\n{"text": "Two."}\n'),
    Example("JSON", ".json", '[{"text": "One."}, {"text": "Two."}]'),
    Example("another column", ".json", '[{"id": 1, "body": "One."}]', "column: body"),
    Example("a field in a field", ".jsonl", '{"page": {"body": "One."}}', "column: page.body"),
    Example("paragraphs", ".jsonl", '{"text": ["One.", "Two."]}', "coerce: true"),
    Example("CSV", ".csv", 'id,text\n1,"One, two."\n2,Three.\n'),
    Example("TSV", ".tsv", "id\tstory\n1\tOne, two.\n", "column: story"),
]
INSTRUCTIONS = [
    Example("JSON", ".json", '[{"instruction": "Say it.", "input": "hi", "output": "Hi."}]'),
    Example("JSON Lines", ".jsonl", '{"instruction": "Say it.", "input": null, "output": "Hi."}'),
    Example("one after another", ".json", '{\n"instruction": "Say it.",\n"output": "Hi."\n}\n' * 2),
    Example("in `data`", ".json", '{"data": [{"instruction": "Say it.", "output": "Hi."}]}'),
    Example("`df.to_json()`", ".json", '{"instruction": {"0": "Say it."}, "output": {"0": "Hi."}}'),
    Example(
        '`orient="split"`', ".json",
        '{"columns": ["instruction", "output"], "data": [["Say it.", "Hi."]]}',
    ),
    Example(
        '`orient="values"`', ".json", '[["Say it.", "Hi."]]',
        'columns: {instruction: "[0]", output: "[1]"}',
    ),
    Example("CSV", ".csv", 'instruction,input,output\nSay it.,"hi, ho",Hi ho.\n'),
    Example("semicolons", ".csv", "instruction;output\nSay it, please.;Hi.\n"),
    Example("TSV", ".tsv", 'instruction\toutput\nSay "hi".\tHi, ho.\n'),
    Example(
        "no header", ".csv", "Say it.,Hi.\n",
        'csv: {header: false}, columns: {instruction: "0", output: "1"}',
    ),
    Example(
        "quotation marks escaped", ".csv", 'instruction,output\n"Say \\"hi\\", now.",Hi.\n',
        r"csv: {escape: \}",
    ),
    Example(
        "quotation marks are text", ".tsv", 'instruction\toutput\n"Hi" is what?\tA word.\n',
        "csv: {quote: none}",
    ),
    Example(
        "other names (Dolly)", ".jsonl",
        '{"instruction": "Say it.", "context": "hi", "response": "Hi."}',
        "columns: {input: context, output: response}",
    ),
    Example(
        "fields in fields", ".jsonl", '{"task": {"ask": "Say it."}, "answers": [{"text": "Hi."}]}',
        "columns: {instruction: task.ask, output: \"answers[0].text\"}",
    ),
    Example(
        "numbers, booleans, lists", ".jsonl",
        '{"instruction": "Is 4 even?", "input": ["a", 4], "output": true}', "coerce: true",
    ),
    Example(
        "no input", ".jsonl", '{"instruction": "Say it.", "input": "<noinput>", "output": "Hi."}',
    ),
    Example(
        "ShareGPT", ".json",
        '[{"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho."}]}]',
        "columns: {conversation: conversations}",
    ),
    Example(
        "several turns", ".json",
        '[{"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}, '
        '{"from": "human", "value": "C"}, {"from": "gpt", "value": "D"}]}]',
        "columns: {conversation: conversations}",
    ),
    Example(
        "OpenAI's messages", ".jsonl",
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": '
        '"Hi."}, {"role": "assistant", "content": "Ho."}]}',
        "columns: {conversation: messages}",
    ),
    Example(
        "system prompts (OpenOrca)", ".jsonl",
        '{"system_prompt": "Be brief.", "question": "Hi.", "response": "Ho."}',
        "columns: {system: system_prompt, instruction: question, output: response}",
    ),
]  # fmt: skip
EXAMPLES = [("corpus", example) for example in CORPUS] + [
    ("instructions", example) for example in INSTRUCTIONS
]
PARQUET = [Example("", ".parquet", example.content) for example in (CORPUS[8], INSTRUCTIONS[0])]
"""Their content is JSON."""

Packed = Callable[[bytes], bytes]
PACKED: dict[str, Packed] = {
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True)),
}


def found(section: str, example: Example, root: Path, **place: str) -> list[tuple[str, ...]]:
    """The texts, or instructions, inputs and outputs, from a file or address."""
    values = {**place, **(yaml12.loads(f"{{{example.params}}}") or {})}
    schema: Any = CorpusParams if section == "corpus" else InstructionsParams
    params = parse(schema, values, section)
    data = load_rows(params, root)
    if isinstance(params, CorpusRows):
        documents: list[Document] = list(own_data.documents(data, params))
        return [(document.text,) for document in documents]
    return [tuple(record[:3]) for record in own_data.instruction_records(data, params).records]


def as_file(section: str, example: Example, root: Path) -> list[tuple[str, ...]]:
    path = root / f"my{example.suffix}"
    path.write_bytes(example.content.encode())
    return found(section, example, root, source="file", path=path.name)


def table(section: str, root: Path) -> str:
    """The table in docs/formats.md."""
    examples = CORPUS if section == "corpus" else INSTRUCTIONS
    becomes = "documents" if section == "corpus" else "instruction · input · output"
    lines = [f"| | file | example | `{section}:` | {becomes} |", "|---|---|---|---|---|"]
    for example in examples:
        items = as_file(section, example, root)
        shown = [" · ".join(_code(field) if field else "" for field in item) for item in items]
        cells = [
            example.what,
            f"`{example.suffix}`",
            "<br>".join(_code(line) for line in example.content.rstrip("\n").split("\n")),
            _code(example.params) if example.params else "",
            "<br>".join(shown),
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    r"""A line of code in a table: ``\n`` and ``\t`` as they are written in Python."""
    return f"`{text}`".replace("\n", r"\n").replace("\t", r"\t") if text.strip() else ""


@pytest.mark.parametrize("section", ["corpus", "instructions"])
def test_the_page_shows_what_is_read(tmp_path: Path, section: str) -> None:
    assert table(section, tmp_path) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", PACKED)
def test_every_format_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    for section, example in EXAMPLES:
        plain = as_file(section, example, tmp_path)
        packed = PACKED[suffix](example.content.encode())
        path = tmp_path / f"packed{example.suffix}{suffix}"
        path.write_bytes(packed)
        assert found(section, example, tmp_path, source="file", path=path.name) == plain


def test_every_format_may_lie_in_a_directory_or_an_archive_or_on_the_web(tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        for number, (section, example) in enumerate(EXAMPLES):
            plain = as_file(section, example, tmp_path)
            folder = tmp_path / f"{number}"
            (folder / "b").mkdir(parents=True)
            (folder / "b" / f"a{example.suffix}").write_bytes(example.content.encode())
            with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
                archive.write(folder / "b" / f"a{example.suffix}", f"b/a{example.suffix}")
            for place in (
                {"source": "file", "path": f"{number}"},
                {"source": "file", "path": f"{number}/**/*{example.suffix}"},
                {"source": "file", "path": f"{number}.zip"},
                {"source": "url", "url": f"{address}/{number}/b/a{example.suffix}"},
                {"source": "url", "url": f"{address}/{number}.zip"},
            ):
                assert found(section, example, tmp_path, **place) == plain


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    for section, example in zip(("corpus", "instructions"), PARQUET, strict=True):
        json_file = as_file(section, example._replace(suffix=".json"), tmp_path)
        rows = pa.Table.from_pylist(json.loads(example.content))
        pq.write_table(rows, tmp_path / "my.parquet")
        assert found(section, example, tmp_path, source="file", path="my.parquet") == json_file


def test_the_page_names_every_suffix() -> None:
    from gpt2.data.parsing.formats import ARCHIVES, RECORDS, TEXTS

    text = PAGE.read_text(encoding="utf-8")
    for suffix in (*ARCHIVES, *RECORDS, *TEXTS):
        assert f"`{suffix}`" in text, suffix


if __name__ == "__main__":
    import tempfile

    for section in ("corpus", "instructions"):
        with tempfile.TemporaryDirectory() as directory:
            print(table(section, Path(directory)))
