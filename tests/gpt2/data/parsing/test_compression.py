"""Compressed files, whole, damaged, and larger than they seem."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import pyarrow as pa
import pytest

from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import EXPANSION, Reader
from gpt2.data.parsing.rows import Row

READER = Reader(Wanted({"text": "text"}, ("text",)), "text")


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
KINDS = pytest.mark.parametrize("suffix", PACKED)
DICTIONARY = 8 * 2**20
"""Bytes that unpacking the usual .xz takes, whatever its length."""
LINES = b"".join(b'{"text": "Text %d"}\n' % n for n in range(500))


def parquet(texts: list[str]) -> bytes:
    import pyarrow.parquet as pq

    file = BytesIO()
    pq.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


def rows(name: str, content: bytes, reader: Reader = READER) -> list[Row]:
    return list(reader.rows(name, BytesIO(content)))


@KINDS
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"One\n"),
        ("enwik", b"One\n"),
        ("a.jsonl", LINES),
        ("a.json", b"[%s]" % b",".join(LINES.split(b"\n")[:-1])),
        ("a.csv", b"id,text\n1,One\n2,Two\n"),
        ("a.html", b"<p>One</p>"),
        ("a.parquet", parquet(["One", "Two"])),
    ],
)
def test_compression_is_looked_through(suffix: str, name: str, content: bytes) -> None:
    plain = rows(name, content)
    assert plain
    assert not any(row.problem for row in plain)
    assert rows(name + suffix, PACKED[suffix](content)) == plain
    assert rows(f"A{name}{suffix.upper()}"[1:], PACKED[suffix](content)) == plain
    assert READER.knows(f"b/a.txt{suffix}")
    assert not READER.knows(f"b/a.png{suffix}")


@KINDS
def test_parts_one_after_another_are_one_file(suffix: str) -> None:
    """As `cat`, pigz, pbzip2 and pzstd leave them."""
    packed = PACKED[suffix]
    assert rows(f"a.jsonl{suffix}", packed(LINES) + packed(LINES))[999].value == {
        "text": "Text 499"
    }


@KINDS
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_damaged_files_are_reported(suffix: str, name: str) -> None:
    packed = PACKED[suffix](LINES)
    damaged = [packed[:-9], packed[: len(packed) // 2], b"One\n" * 9]
    if suffix != ".zst":  # Arrow writes it without checksums
        half = len(packed) // 2
        damaged.append(packed[:half] + bytes([packed[half] ^ 0xFF]) + packed[half + 1 :])
    for content in damaged:
        *_, last = rows(name + suffix, content)
        assert last.problem.startswith("damaged archive ("), (content[:9], last)


@KINDS
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.html"])
def test_a_bomb_is_refused(suffix: str, name: str) -> None:
    content = b"text\n" * (name == "a.csv") + b"1\n" * 50_000
    if name == "a.json":
        content = b"[1,\n" * 25_000
    bomb = PACKED[suffix](content)
    reader = Reader(READER.wanted, "text", room=25_000)
    assert reader.room > EXPANSION * len(bomb)
    tracemalloc.start()
    for row in reader.rows(name + suffix, BytesIO(bomb)):
        last = row
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.problem.startswith("archive that expands to more than 25,000 bytes"), last
    assert most < 500_000 + DICTIONARY * (suffix == ".xz")


@KINDS
def test_files_larger_than_the_memory_are_read(suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"{n} " + "text " * 20}) + "\n" for n in range(20_000))
    file = BytesIO(PACKED[suffix](lines.encode()))
    reader = Reader(READER.wanted, "text", largest=500)
    tracemalloc.start()
    count = sum(not row.problem for row in reader.rows(f"a.jsonl{suffix}", file))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert most < len(lines) / 2 + DICTIONARY * (suffix == ".xz")


class Broken(BytesIO):
    """A disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")

    def read1(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


@KINDS
def test_what_the_file_system_says_is_not_the_datas_fault(suffix: str) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        list(READER.rows(f"a.txt{suffix}", Broken(b"abc")))
