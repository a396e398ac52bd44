"""Files of text, JSON, JSON Lines or Parquet, plain or inside ``.gz`` and ``.zip``, as rows.

A file is what its suffix says. Rows come as they are read: nothing is unpacked to disk, and what is
in memory at a time, a text, a line or a list of JSON, is no larger than it may be. An archive may
expand to `EXPANSION` times its length in all: it may be a bomb.
"""

import gzip
import json
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import SEEK_END, BufferedIOBase, BytesIO
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, cast

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
"""Bytes of what is all in memory."""
EXPANSION = 100
"""Times its own length, an archive may expand to. Text comes to 3 to 10 times, a bomb to 1,000."""
ROOM = 64 * 2**20
"""Bytes that an archive may expand to, however short it is."""
EMPTY = "empty. Give it text, or name another file in the parameters"
PARQUET_ROWS = 1024
PARQUET_BUFFER = 2**20
"""Rows and bytes that are read at a time, whatever the size of the file's row groups."""


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
    """Why no more rows of a file can be had."""


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
    """Bytes in memory at a time."""
    room: int = ROOM
    """Bytes that any archive may expand to; see `EXPANSION`."""

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

    def rows(self, name: str, file: BufferedIOBase) -> Iterator[Row]:
        """The rows of one file. What is wrong with a row, or the whole file, is told in its place.

        Args:
            name: with the suffixes that tell what it is; the rows are named after it.
            file: open and at its beginning.
        """
        most = max(self.room, EXPANSION * file.seek(0, SEEK_END))
        file.seek(0)
        return self._told(name, file, most)

    def _told(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file, or why there are no more."""
        try:
            yield from self._rows(name, file, most)
        except _UnreadableError as error:
            yield Row(name, "", None, str(error))
        except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
            yield Row(name, "", None, f"damaged archive ({error})")

    def _rows(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file; of an archive, if it holds no more than ``most`` bytes."""
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".gz":
            return self._rows(name[: -len(suffix)], gzip.GzipFile(fileobj=file, mode="rb"), most)
        if suffix == ".zip":
            return self._members(name, self._seekable(file, most), most)
        match self.format or RECORDS.get(suffix, self.otherwise):
            case "parquet":
                table = _parquet(self._seekable(file, most), self.columns)
                return _numbered(name, "row", table)
            case "json":
                return self._json(name, file, most)
            case "text":
                return iter([Row(name, "", _filled(_decoded(self._whole(file, most))))])

    def _members(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a zip archive's members, in the order of their names."""
        with _opened(file) as archive:
            members = [item for item in archive.infolist() if self._is_member(item.filename)]
            if not members:
                raise _UnreadableError(f"no file in it ends in {self.suffixes()}")
            # A member gives no more than its stated size: a lie about it cannot hide a bomb.
            _check_expansion(sum(item.file_size for item in members), most)
            for item in sorted(members, key=lambda item: item.filename):
                if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # The others have no limit of what they give at a time.
                    raise _UnreadableError("archive of another compression than deflate. Repack it")
                try:
                    member = cast(zipfile.ZipExtFile, archive.open(item))
                except (RuntimeError, ValueError, OverflowError) as error:
                    # A password or another thing that `zipfile` cannot do; a place that cannot be.
                    raise _UnreadableError(f"archive that cannot be read ({error})") from error
                with member:
                    yield from inside(name, item.filename, self._told(item.filename, member, most))

    def _json(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        lines = self._lines(file, most)
        first = next(lines, None)
        if first is None:
            raise _UnreadableError(EMPTY)
        if first[1].removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            file.seek(0)
            return _json_list(name, _decoded(self._whole(file, most)))
        return _json_lines(name, chain([first], lines))

    def _lines(self, file: BufferedIOBase, most: int) -> Iterator[tuple[int, bytes]]:
        """Number and content of each line that is not empty."""
        total = 0
        for number in count(1):
            line = self._limited(file.readline(min(self.largest, most) + 1))
            total += len(line)
            _check_expansion(total, most)
            if not line:
                return
            if line.strip():
                yield number, line

    def _whole(self, file: BufferedIOBase, most: int) -> bytes:
        content = self._limited(file.read(min(self.largest, most) + 1))
        _check_expansion(len(content), most)
        return content

    def _limited(self, content: bytes) -> bytes:
        if len(content) > self.largest:
            raise _UnreadableError(
                f"a text, a line or a list has more than {self.largest:,} bytes, too many to hold "
                "in memory. Divide it; JSON Lines may be as long as they like"
            )
        return content

    def _seekable(self, file: BufferedIOBase, most: int) -> BufferedIOBase:
        """A file whose end can be read first, as that of Parquet and zip must be."""
        packed = isinstance(file, gzip.GzipFile | zipfile.ZipExtFile)
        return BytesIO(self._whole(file, most)) if packed else file

    def suffixes(self) -> str:
        """The end of a message that nothing known was found."""
        known = sorted([*RECORDS, *(TEXTS if self.otherwise == "text" else ())])
        return f"{', '.join(known)}. Name another one, or set the key format"

    def _is_member(self, name: str) -> bool:
        """No directory, and no archive: those within archives may go on without end."""
        return not name.lower().endswith(("/", *ARCHIVES)) and self.knows(name)


def _opened(file: BufferedIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (NotImplementedError, ValueError, OverflowError) as error:
        # Another thing that `zipfile` cannot do; a name or a place that cannot be.
        raise _UnreadableError(f"damaged archive ({error})") from error


def _check_expansion(size: int, most: int) -> None:
    if size > most:
        raise _UnreadableError(
            f"archive that expands to more than {most:,} bytes, too many for its length. "
            "Is it a bomb? If not, unpack it"
        )


def inside(folder: str, name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the file ``name`` as those of a file inside ``folder``, a directory or an archive."""
    for row in rows:
        place = f"{name}, {row.place}" if row.place else name
        yield row._replace(name=f"{folder}/{row.name}" if folder else row.name, place=place)


def _decoded(content: bytes) -> str:
    """Text without the byte order mark of some editors."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(
            f"byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with iconv"
        ) from error
    if "\0" in text:
        raise _UnreadableError(f"byte {content.index(0)} is 0, so this is no text. Unpack it first")
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise _UnreadableError(EMPTY)
    return text


def _json_list(name: str, text: str) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"not valid JSON ({error})") from error
    if not values:
        raise _UnreadableError("an empty list. Give it records, or name another file")
    return _numbered(name, "record", values)


def _json_lines(name: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
    for number, line in lines:
        row = Row(f"{name}:{number}", f"line {number}", None)
        try:
            yield row._replace(value=json.loads(_decoded(line)))
        except _UnreadableError as error:
            yield row._replace(problem=str(error))
        except json.JSONDecodeError as error:
            yield row._replace(problem=f"not valid JSON ({error.msg}, column {error.colno})")
        except (ValueError, RecursionError) as error:  # a number, or a nesting, without end
            yield row._replace(problem=f"not valid JSON ({error})")


def _parquet(file: BufferedIOBase, columns: frozenset[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(
            pa.PythonFile(file, "r"), buffer_size=PARQUET_BUFFER, pre_buffer=False
        )
        names = [name for name in table.schema_arrow.names if name in columns]
        for batch in table.iter_batches(PARQUET_ROWS, columns=names, use_threads=False):
            yield from map(without_nulls, batch.to_pylist())
    # ValueError: text that is not UTF-8, a date that cannot be.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _UnreadableError(f"not a valid Parquet file ({error})") from error


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty cells: a table has no other way to leave a field out."""
    return {name: value for name, value in values.items() if value is not None}


def _numbered(name: str, kind: str, values: Iterable[object]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        yield Row(f"{name}:{number}", f"{kind} {number}", value)
