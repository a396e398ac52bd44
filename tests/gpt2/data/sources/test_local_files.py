"""Local files, good and bad."""

import gzip
import hashlib
import json
import logging
import zipfile
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.data.records import Document
from gpt2.data.sources import own_data
from gpt2.data.sources.local_files import FileCorpus, FileInstructions, load_rows

ALPACA = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(20)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A directory with texts, records, an archive and other files."""
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "c.txt").write_text("Three")
    (folder / "a.md").write_text("One")
    (folder / "b" / "two.jsonl.gz").write_bytes(gzip.compress(b'{"text": "Two"}'))
    (folder / "b" / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("Zero")
    with zipfile.ZipFile(folder / "d.zip", "w") as archive:
        archive.writestr("e.txt", "Four")
    return folder


def documents(root: Path, path: str, **keys: object) -> list[Document]:
    params = FileCorpus(source="file", path=path, **keys)
    return list(own_data.documents(load_rows(params, root), params))


def refused(root: Path, path: str, **keys: object) -> str:
    with pytest.raises(UserError) as caught:
        documents(root, path, **keys)
    message = str(caught.value)
    assert message.startswith(str(root / path))
    return message


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    text = "To be, or not to be.\n"
    path = tmp_path / "play.txt"
    path.write_text(text)
    assert documents(tmp_path, "play.txt") == [Document("play.txt", text)]
    assert documents(Path("elsewhere"), str(path)) == [Document("play.txt", text)]


def test_instructions_are_read_from_a_list_or_from_lines(tmp_path: Path) -> None:
    expected = [(row["instruction"], row["input"], row["output"]) for row in ALPACA]
    for text in ("\n".join(map(json.dumps, ALPACA)), json.dumps(ALPACA, indent=2)):
        (tmp_path / "alpaca.txt").write_text(text)  # the suffix says nothing
        params = FileInstructions(source="file", path="alpaca.txt")
        found = own_data.instruction_records(load_rows(params, tmp_path), params).records
        assert [record[:3] for record in found] == expected
        assert found[4].name == "alpaca.txt:5"


def test_a_directory_is_read_whole_in_the_order_of_paths(tmp_path: Path, texts: Path) -> None:
    assert documents(tmp_path, "texts") == [
        Document("a.md", "One"),
        Document("b/two.jsonl:1", "Two"),
        Document("c.txt", "Three"),
        Document("d.zip/e.txt", "Four"),
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("texts/*.txt", [".hidden.txt", "c.txt"]),
        ("texts/**/[bt]*.gz", ["b/two.jsonl:1"]),
        ("texts/?.md", ["a.md"]),
        ("te*/c.txt", ["texts/c.txt"]),
    ],
)
def test_a_pattern_names_files(tmp_path: Path, texts: Path, pattern: str, names: list[str]) -> None:
    assert [document.name for document in documents(tmp_path, pattern)] == names
    assert len(documents(Path("elsewhere"), str(tmp_path / pattern))) == len(names)


def test_a_file_may_be_named_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("One")
    assert documents(tmp_path, "a[1].txt") == [Document("a[1].txt", "One")]


def test_the_facts_trace_every_file(tmp_path: Path, texts: Path) -> None:
    params = FileCorpus(source="file", path="texts")
    data = load_rows(params, tmp_path)
    assert len(list(own_data.documents(data, params))) == 4
    assert list(data.facts["raw"]) == ["a.md", "b/two.jsonl.gz", "c.txt", "d.zip"]
    digest = hashlib.sha256(b"One").hexdigest()
    assert data.facts["raw"]["a.md"] == {"bytes": 3, "sha256": digest}


def test_a_file_of_another_digest(tmp_path: Path, texts: Path) -> None:
    digest = hashlib.sha256(b"One").hexdigest()
    assert len(documents(tmp_path, "texts/a.md", sha256=digest)) == 1
    message = refused(tmp_path, "texts/a.md", sha256="0" * 64)
    assert message.endswith(f"sha256 is {digest}, expected {'0' * 64}")
    assert (texts / "a.md").exists()  # it is the user's
    assert "several files" in refused(tmp_path, "texts", sha256="0" * 64)


def test_files_that_are_not_there(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no such file" in refused(tmp_path, "other.txt")
    assert "no file matches this pattern" in refused(tmp_path, "texts/*.doc")
    message = refused(tmp_path, "empty")
    assert "no file below it ends in .csv, " in message
    assert ".txt" in message


def test_one_bad_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes(b"Gr\xfc\xdfe")
    message = refused(tmp_path, "own.txt")
    assert message.startswith(f"{tmp_path / 'own.txt'}: byte 2 (0xfc) is not UTF-8. Convert")
    assert "\n" not in message


def test_every_bad_file_is_reported(tmp_path: Path, texts: Path) -> None:
    (texts / "a.md").write_bytes(b"\xff")
    (texts / "b" / "bad.jsonl").write_text('{"text": "ok"}\n{"text": ""}\n')
    (texts / "c.txt").write_text(" ")
    first, *problems = refused(tmp_path, "texts").splitlines()
    assert first.endswith("texts: 3 problem(s)")
    assert problems[0].startswith("  a.md: byte 0 (0xff) is not UTF-8")
    assert problems[1] == "  b/bad.jsonl, line 2: 'text' is empty"
    assert problems[2].startswith("  c.txt: empty")
    assert len(documents(tmp_path, "texts", on_bad_record="skip")) == 3


def test_stories_in_one_file_are_documents_and_the_log_says_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stories = [f"Once upon a time, bird {n} sang." for n in range(300)]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories) + "\n<|endoftext|>\n")
    with caplog.at_level(logging.INFO, "gpt2"):
        found = documents(tmp_path, "stories.txt")
    assert found[299] == Document("stories.txt:300", stories[299])
    (line,) = caplog.messages
    assert line.endswith(
        "stories.txt: 300 document(s) in text files, separated by '<|endoftext|>' "
        "(document_separator)"
    )
    for none in ("none", None):
        assert len(documents(tmp_path, "stories.txt", document_separator=none)) == 1


@pytest.mark.parametrize("name", ["a.log", "a.pdf", "a.docx", "a.tar.gz", "a.xlsx"])
def test_what_a_suffix_does_not_say_is_refused(tmp_path: Path, name: str) -> None:
    content = b"One"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    message = refused(tmp_path, name)
    assert f"unknown suffix {Path(name.removesuffix('.gz')).suffix}. Known are " in message
    assert ".csv, " in message
    assert "format: text" in message
    assert documents(tmp_path, name, format="text")[0].text == "One"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    assert "loop.txt: " in refused(tmp_path, "loop.txt")
