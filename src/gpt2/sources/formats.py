"""Files of text, JSON, JSON Lines or Parquet, plain or inside ``.gz`` and ``.zip``, as rows.

A file is what its suffix says. Nothing is unpacked to disk, and nothing is larger than it may be.
"""

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from gpt2.params import Params

Format = Literal["text", "json", "parquet"]
"""JSON Lines count as JSON: a file that begins with ``[`` is a list, any other has lines."""

RECORDS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
TEXTS = (".md", ".rst", ".text", ".txt")
ARCHIVES = (".gz", ".zip")
LARGEST = 2 * 2**30
"""Bytes of a file, or of what an archive holds: it is all in memory, and archives may be bombs."""


class FormatParams(Params):
    """What files hold, where their suffixes do not say it."""

    format: Format | None = None
    """Of every file, also in a directory or an archive; null: what its suffix says."""


class Row(NamedTuple):
    """A record as it stands in its file, not yet checked, or a whole text."""

    name: str
    """What is made of it is called so: ``alpaca.json:5``."""
    place: str
    """``line 5``, for messages; empty where the file itself is the row."""
    value: object
    """A text, or what JSON or Parquet holds."""
    problem: str = ""
    """Why there is no value."""


class RawData(NamedTuple):
    """What a source gives."""

    origin: str
    """The path, address or name that leads messages."""
    rows: Iterable[Row]
    facts: dict[str, Any]
    """Where the rows come from, for the manifest; complete when the rows have been read."""


class _UnreadableError(Exception):
    """Why no row of a file can be had."""


@dataclass(frozen=True)
class Reader:
    """Files as rows."""

    columns: frozenset[str]
    """Those of a Parquet file that are wanted."""
    otherwise: Format
    """What a file holds whose suffix is not one of `RECORDS`."""
    format: Format | None = None
    """What every file holds, whatever its suffix."""
    largest: int = LARGEST
    """Bytes, when unpacked."""

    def knows(self, name: str) -> bool:
        """Whether a file found in a directory or an archive is meant to be read."""
        path = PurePosixPath(name)
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            return False
        suffix = path.suffix.lower()
        if suffix == ".gz":
            return self.knows(name[: -len(suffix)])
        known = self.format is not None or suffix == ".zip" or suffix in RECORDS
        return known or (self.otherwise == "text" and suffix in TEXTS)

    def rows(self, name: str, content: bytes) -> Iterator[Row]:
        """The rows of one file. What is wrong with a row, or the whole file, is told in its place.

        Args:
            name: with the suffixes that tell what it is; the rows are named after it.
            content: its bytes.
        """
        try:
            yield from self._rows(name, content)
        except _UnreadableError as error:
            yield Row(name, "", None, str(error))

    def _rows(self, name: str, content: bytes) -> Iterator[Row]:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".gz":
            return self.rows(name[: -len(suffix)], _unpacked(content, self.largest))
        if suffix == ".zip":
            return self._members(name, content)
        match self.format or RECORDS.get(suffix, self.otherwise):
            case "parquet":
                return _numbered(name, "row", _parquet(content, self.columns))
            case "json":
                return _json(name, _decoded(content))
            case "text":
                return iter([Row(name, "", _decoded(content))])

    def _members(self, name: str, content: bytes) -> Iterator[Row]:
        """The rows of a zip archive's members, in the order of their names."""
        try:
            with zipfile.ZipFile(BytesIO(content)) as archive:
                members = [item for item in archive.infolist() if self._is_member(item.filename)]
                if not members:
                    raise _UnreadableError(f"no file in it ends in {self.suffixes()}")
                _check_size(sum(item.file_size for item in members), self.largest)
                for item in sorted(members, key=lambda item: item.filename):
                    with archive.open(item) as member:
                        # No further than its stated size: a lie about it cannot hide a bomb.
                        content = member.read(item.file_size)
                    yield from inside(name, item.filename, self.rows(item.filename, content))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _UnreadableError(f"damaged archive ({error})") from error
        except (RuntimeError, NotImplementedError) as error:  # a password; another compression
            raise _UnreadableError(f"archive that cannot be read ({error})") from error

    def suffixes(self) -> str:
        """The end of a message that nothing known was found."""
        known = sorted([*RECORDS, *(TEXTS if self.otherwise == "text" else ())])
        return f"{', '.join(known)}. Name another one, or set the key format"

    def _is_member(self, name: str) -> bool:
        """No directory, and no archive: those within archives may go on without end."""
        return self.knows(name) and not name.lower().endswith(("/", *ARCHIVES))


def inside(folder: str, name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the file ``name`` as those of a file inside ``folder``, a directory or an archive."""
    for row in rows:
        place = f"{name}, {row.place}" if row.place else name
        yield row._replace(name=f"{folder}/{row.name}" if folder else row.name, place=place)


def _unpacked(content: bytes, largest: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            unpacked = file.read(largest + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _UnreadableError(f"damaged gzip file ({error})") from error
    _check_size(len(unpacked), largest)
    return unpacked


def _check_size(size: int, largest: int) -> None:
    if size > largest:
        raise _UnreadableError(
            f"unpacked it has {largest:,} bytes or more, too many to hold in memory. "
            "Divide it into several files"
        )


def _decoded(content: bytes) -> str:
    """Text that is not empty, without the byte order mark of some editors."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(
            f"byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with iconv"
        ) from error
    if "\0" in text:
        raise _UnreadableError(f"byte {content.index(0)} is 0, so this is no text. Unpack it first")
    if not text.strip():
        raise _UnreadableError("empty. Give it text, or name another file in the parameters")
    return text


def _json(name: str, text: str) -> Iterator[Row]:
    if not text.lstrip().startswith("["):
        return _json_lines(name, text)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"not valid JSON ({error})") from error
    if not values:
        raise _UnreadableError("an empty list. Give it records, or name another file")
    return _numbered(name, "record", values)


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        row = Row(f"{name}:{number}", f"line {number}", None)
        if not line.strip():
            continue
        try:
            yield row._replace(value=json.loads(line))
        except json.JSONDecodeError as error:
            yield row._replace(problem=f"not valid JSON ({error.msg}, column {error.colno})")
        except (ValueError, RecursionError) as error:  # a number, or a nesting, without end
            yield row._replace(problem=f"not valid JSON ({error})")


def _parquet(content: bytes, columns: frozenset[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(BytesIO(content))
        names = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(columns=names):
            yield from map(without_nulls, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise _UnreadableError(f"not a valid Parquet file ({error})") from error


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty cells: a table has no other way to leave a field out."""
    return {name: value for name, value in values.items() if value is not None}


def _numbered(name: str, kind: str, values: Iterable[object]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        yield Row(f"{name}:{number}", f"{kind} {number}", value)
