"""Files of every kind, whole, damaged, and larger than they seem."""

import gzip
import json
import tracemalloc
import zipfile
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import EXPANSION, Reader
from gpt2.data.parsing.rows import Row

READER = Reader(Wanted({"text": "text", "name": "name"}, ("text",)), "text")


def parquet(columns: dict[str, list[object]]) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file.getvalue()


def rows(name: str, content: bytes, reader: Reader = READER) -> list[Row]:
    return list(reader.rows(name, BytesIO(content)))


def problem(name: str, content: bytes, reader: Reader = READER) -> str:
    """The problem of a whole file, or of the only member of an archive."""
    (row,) = rows(name, content, reader)
    assert (row.place, row.value) == ("a.txt" if name.endswith(".zip") else "", None)
    return row.problem


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "LICENSE"])
def test_text_is_one_row(name: str) -> None:
    text = "To be, or not to be.\r\n\nThat is « the question ».\n"
    assert rows(name, text.encode()) == [Row(name, "", text)]
    assert rows(name, b"\xef\xbb\xbf" + text.encode())[0].value == text


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "A.NDJSON"])
def test_json_is_a_list_or_lines_for_any_suffix(name: str) -> None:
    lines = rows(name, '{"text": "One\u2028line"}\n\n{"text": "Two"}\n'.encode())
    assert [row.place for row in lines] == ["line 1", "line 3"]
    listed = rows(name, '[{"text": "One\u2028line"},\n{"text": "Two"}]'.encode())
    assert [row.name for row in listed] == [f"{name}:1", f"{name}:2"]
    assert [row.value for row in listed] == [row.value for row in lines]
    assert listed[1] == Row(f"{name}:2", "record 2", {"text": "Two"})


def test_parquet_is_read_in_the_wanted_columns() -> None:
    content = parquet({"text": ["One", None], "year": [1999, 2000]})
    assert rows("a.parquet", content) == [
        Row("a.parquet:1", "row 1", {"text": "One"}),
        Row("a.parquet:2", "row 2", {"text": None}),
    ]


def test_gzip_is_looked_through() -> None:
    for name, content in {"a.txt": b"One", "a.jsonl": b'{"text": "Two"}'}.items():
        assert rows(f"{name}.gz", gzip.compress(content)) == rows(name, content)


def test_zip_is_looked_through_in_the_order_of_names() -> None:
    content = archive(
        {
            "c/d.jsonl": b'{"text": "Two"}\n{"text": "Three"}',
            "a.txt": b"One",
            "picture.png": b"\x89PNG",
            "__MACOSX/a.txt": b"\x00",
            ".hidden.txt": b"\x00",
            "b.txt": b"Gr\xfc\xdfe",
        }
    )
    text, bad, *lines = rows("x.zip", content)
    assert text == Row("x.zip/a.txt", "a.txt", "One")
    assert bad.place == "b.txt"
    assert bad.problem.startswith("byte 2 (0xfc) is not UTF-8")
    assert lines == [
        Row("x.zip/c/d.jsonl:1", "c/d.jsonl, line 1", {"text": "Two"}),
        Row("x.zip/c/d.jsonl:2", "c/d.jsonl, line 2", {"text": "Three"}),
    ]


def test_the_key_format_outweighs_suffixes() -> None:
    reader = Reader(READER.wanted, "json", format="text")
    assert rows("x.zip", archive({"text8": b"One"}), reader)[0].value == "One"
    assert rows("a.json", b"[]", reader)[0].value == "[]"
    reader = Reader(READER.wanted, "text", format="parquet")
    assert rows("a", parquet({"text": ["One"]}), reader)[0].value == {"text": "One"}


@pytest.mark.parametrize("otherwise", ["text", "json"])
def test_what_is_found_in_a_directory_is_known_by_its_suffix(otherwise: str) -> None:
    reader = Reader(READER.wanted, otherwise)
    for name in ("a.json", "b/a.JSONL", "a.parquet", "a.zip", "a.json.gz"):
        assert reader.knows(name)
    for name in ("a.txt", "b/a.md", "a.txt.gz"):
        assert reader.knows(name) == (otherwise == "text")
    for name in ("a", "a.png", "a.gz", ".git/a.json", "b/.a.json"):
        assert not reader.knows(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t\n", "empty"),
        ("a.jsonl", b"\n\n", "empty"),
        ("a.txt", b"Gr\xfc\xdfe", "byte 2 (0xfc) is not UTF-8"),
        ("a.json", b'["Gr\xfc\xdfe"]', "byte 4 (0xfc) is not UTF-8"),
        ("a", b"member\x00\x00", "byte 6 is 0"),
        ("a.tar", b"member", "unknown suffix .tar. Known are .csv, "),
        ("a.json", b"[]", "an empty list"),
        ("a.json", b'[{"text": "a"}', "not valid JSON (Expecting ',' delimiter: line 1 column 15"),
        ("a.json", b"[" * 100_000, "not valid JSON ("),
        ("a.parquet", b"PAR1", "not a valid Parquet file ("),
        ("a.txt.gz", b"One", "damaged archive ("),
        ("a.txt.gz", gzip.compress(b"One" * 999)[:-9], "damaged archive ("),
        ("A.ZIP", b"One", "damaged archive ("),
        ("A.ZIP", archive({"a.png": b"x", "b.zip": archive({"a.txt": b"x"})}), "no file in it"),
    ],
)
def test_what_is_wrong_with_a_file(name: str, content: bytes, message: str) -> None:
    assert problem(name, content).startswith(message)


def test_a_damaged_member_is_reported() -> None:
    content = bytearray(archive({"a.txt": b"One line of text.\n" * 50}))
    content[50] ^= 0xFF
    assert "damaged archive (" in problem("x.zip", bytes(content))


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 10_000, "{'a': 1}"])
def test_lines_that_are_no_json(line: str) -> None:
    first, second, third = rows("a.jsonl", f'{{"text": "One"}}\n{line}\n[3]'.encode())
    assert first.value == {"text": "One"}
    assert second.place == "line 2"
    assert second.problem.startswith("not valid JSON (")
    assert third.value == [3]


def test_lines_that_are_no_text() -> None:
    first, second, third = rows("a.jsonl", b'{"text": "One"}\n{"text": "Gr\xfc\xdfe"}\n"\0"')
    assert first.value == {"text": "One"}
    assert (second.place, third.place) == ("line 2", "line 3")
    assert second.problem.startswith("byte 12 (0xfc) is not UTF-8")
    assert third.problem.startswith("byte 1 is 0")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "zip", "parquet"])
def test_files_larger_than_the_memory_are_read(kind: str) -> None:
    """The limit is for one row, not for their number."""
    texts = [f"{n} " + "text " * 20 for n in range(20_000)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    content = {
        "jsonl": lambda: lines,
        "jsonl.gz": lambda: gzip.compress(lines),
        "zip": lambda: archive({"a.jsonl": lines}),
        "parquet": lambda: parquet({"text": texts}),
    }[kind]()
    file, found = BytesIO(content), []
    reader = Reader(READER.wanted, "text", largest=500)
    tracemalloc.start()
    for text, row in zip(texts, reader.rows(f"a.{kind}", file), strict=True):
        found.append(row.value == {"text": text})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(found)
    assert most < 1_000_000 < len(lines) / 2


def test_a_line_or_a_list_of_json_must_fit_into_memory() -> None:
    reader = Reader(READER.wanted, "text", largest=500)
    good, bad = rows("a.jsonl", b'{"text": "One"}\n{"text": "' + b"a" * 500 + b'"}', reader)
    assert good.value == {"text": "One"}
    assert "too many to hold in memory" in bad.problem
    assert "too many to hold in memory" in problem("a.json", b"[3,\n" * 200, reader)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.zip"])
def test_a_bomb_is_refused(name: str) -> None:
    packed = gzip.compress if name.endswith("gz") else lambda content: archive({"a.txt": content})
    reader = Reader(READER.wanted, "text", largest=10_000)
    assert len(rows(name, packed(b"a" * 10_000), reader)[0].value) == 10_000
    bomb = packed(b"a" * 10_000_000)
    assert len(bomb) < 20_000
    assert "too many to hold in memory" in problem(name, bomb, reader)


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    content = archive({"a.txt": b"a" * 10_000_000})
    lie = content.replace((10_000_000).to_bytes(4, "little"), (5000).to_bytes(4, "little"))
    assert lie != content
    reader = Reader(READER.wanted, "text", largest=10_000)
    assert "damaged archive (" in problem("a.zip", lie, reader)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.txt.gz", "a.zip", "a.jsonl.gz.gz"])
def test_what_an_archive_expands_to_has_a_limit(name: str) -> None:
    """A bomb of short lines would fit into memory, but fill the disk."""
    reader = Reader(READER.wanted, "text", room=100_000)
    assert reader.room > EXPANSION * 900
    content = (b"[" if name.startswith("a.json.") else b"") + b"3\n" * 100_000
    if name.endswith(".zip"):  # each member alone is within the limit
        bomb = archive({f"{n}.jsonl": content[:40_000] for n in range(4)})
    else:
        bomb = gzip.compress(gzip.compress(content) if name.endswith(".gz.gz") else content)
    assert len(bomb) < 900
    *_, last = reader.rows(name, BytesIO(bomb))
    assert last.value is None
    assert last.problem.startswith("archive that expands to more than 100,000 bytes")


def test_a_long_archive_may_expand_to_more() -> None:
    lines = b"".join(b"%d\n" % (n * n) for n in range(10_000))
    reader = Reader(READER.wanted, "text", room=1000)
    files = {"a.jsonl.gz": gzip.compress(lines), "a.zip": archive({"a.jsonl": lines})}
    for name, content in files.items():
        assert len(rows(name, content, reader)) == 10_000


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_compressions_are_read_that_give_a_little_at_a_time(compression: int) -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        target.writestr("a.txt", "One")
    (row,) = rows("x.zip", file.getvalue())
    assert "another compression than deflate" in row.problem


def test_names_of_members_that_cannot_be() -> None:
    content = archive({"é.txt": b"One"})
    damaged = content.replace("é".encode(), b"\xff\xfe")
    assert "damaged archive (" in rows("x.zip", damaged)[0].problem
    (row,) = rows("x.zip", archive({"a.txt" + ".gz" * 5000: b"One", "a.txt": b"Two"}))
    assert row.value == "Two"


def test_a_parquet_file_with_text_that_is_not_utf8() -> None:
    column = pa.array([b"One", b"Gr\xfc\xdfe"]).cast(pa.binary()).view(pa.string())
    file = BytesIO()
    pq.write_table(pa.table({"text": column}), file)
    assert "not a valid Parquet file (" in rows("a.parquet", file.getvalue())[-1].problem


def test_an_archive_with_a_password_is_reported() -> None:
    content = bytearray(archive({"a.txt": b"One"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    assert "password" in problem("A.ZIP", bytes(content))


def test_json_values_are_kept_as_they_are() -> None:
    values = [{"text": "One", "year": 1999}, 3, None, ["a"]]
    assert [row.value for row in rows("a.json", json.dumps(values).encode())] == values
