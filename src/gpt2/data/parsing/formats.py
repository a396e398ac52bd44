"""Text, HTML, JSON, CSV and Parquet files, plain, compressed or in ``.zip``, as rows.

The suffix of a file decides its format. Rows come one by one. Nothing is unpacked to disk, and the
size of what is in memory at a time (a text, a line, a JSON list) is limited. An archive may expand
to `EXPANSION` times its size in total, because it may be a zip bomb.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import SEEK_END, BufferedIOBase, BytesIO
from pathlib import PurePosixPath
from typing import Literal, cast

from gpt2.core.params import Params
from gpt2.data.parsing.compression import DECOMPRESSORS, Decompressed, report_damage
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.json_files import json_rows
from gpt2.data.parsing.limits import LimitedFile, check_expansion
from gpt2.data.parsing.rows import Row, UnreadableError, inside
from gpt2.data.parsing.tables import CsvParams, csv_rows, parquet_rows
from gpt2.data.parsing.texts import NO_SEPARATOR, html_row, text_rows

Format = Literal["text", "html", "json", "csv", "parquet"]

TEXTS: dict[str, Format] = {
    ".htm": "html",
    ".html": "html",
    ".markdown": "text",
    ".md": "text",
    ".rst": "text",
    ".text": "text",
    ".txt": "text",
    ".xhtml": "html",
}
"""Formats of a corpus only. Markdown is used as plain text."""
RECORDS: dict[str, Format] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".tab": "csv",
    ".tsv": "csv",
}
HTML = re.compile(r"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
TABS = (".tab", ".tsv")
ARCHIVES = (*DECOMPRESSORS, ".zip")
LARGEST = 2 * 2**30
"""Largest number of bytes in memory at a time."""
EXPANSION = 100
"""An archive may expand to this many times its size. Text has a factor of 3 to 10, a zip bomb
1,000."""
ROOM = 64 * 2**20
"""Bytes to which any archive may expand, however small it is."""


class FormatParams(Params):
    """The format of files, where it cannot be detected."""

    format: Format | None = None
    """Format of every file, also in a directory or an archive; null: by its suffix."""
    csv: CsvParams = CsvParams()


@dataclass(frozen=True)
class Reader:
    """Parses files into rows."""

    wanted: Wanted
    default: Literal["text", "json"]
    """Format of a file without a suffix: text for a corpus, JSON for instructions."""
    format: Format | None = None
    """Format of every file, for any suffix."""
    csv: CsvParams = field(default_factory=CsvParams)
    separator: str = NO_SEPARATOR
    """Separator of the documents in a file; see `text_rows`."""
    largest: int = LARGEST
    """Largest number of bytes in memory at a time."""
    room: int = ROOM
    """Bytes to which any archive may expand; see `EXPANSION`."""

    def knows(self, name: str) -> bool:
        """Whether a file in a directory or an archive is one to parse."""
        path = PurePosixPath(name)
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            return False
        suffix = path.suffix.lower()
        if suffix in DECOMPRESSORS:
            return self.knows(name[: -len(suffix)])
        return self.format is not None or suffix == ".zip" or suffix in self._known

    def rows(self, name: str, file: BufferedIOBase) -> Iterator[Row]:
        """The rows of one file. An error in a row, or in the whole file, is a row with a problem.

        Args:
            name: with the suffixes that decide the format; the names of the rows begin with it.
            file: open and at its beginning.
        """
        most = max(self.room, EXPANSION * file.seek(0, SEEK_END))
        file.seek(0)
        return self._rows_or_problem(name, file, most)

    def suffixes(self) -> str:
        """The end of a message that no file with a known suffix was found."""
        return f"{', '.join(sorted(self._known))}. Name another one, or set the key format"

    @property
    def _known(self) -> dict[str, Format]:
        return RECORDS | TEXTS if self.default == "text" else RECORDS

    def _rows_or_problem(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file; where it cannot be parsed any further, a row with the problem."""
        try:
            with report_damage():
                yield from self._rows(name, file, most)
        except UnreadableError as error:
            yield Row(name, "", None, str(error))

    def _rows(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file; an archive must not expand to more than ``most`` bytes."""
        suffix = PurePosixPath(name).suffix.lower()
        if decompress := DECOMPRESSORS.get(suffix):
            return self._rows(name[: -len(suffix)], decompress(file), most)
        if suffix == ".zip":
            return self._members(name, self._seekable(file, most), most)
        limited = LimitedFile(file, self.largest, most)
        match self.format or self._format_of(suffix):
            case "parquet":
                return parquet_rows(name, self._seekable(file, most), self.wanted)
            case "json":
                return json_rows(name, limited, self.wanted)
            case "csv":
                tabs = {"delimiter": "\t"} if suffix in TABS and not self.csv.delimiter else {}
                return csv_rows(name, limited, self.csv.model_copy(update=tabs), self.wanted)
            case "html":
                return html_row(name, limited)
            case "text":
                rows = text_rows(name, limited, self.separator)
                return rows if self.format else map(_refuse_html, rows)

    def _format_of(self, suffix: str) -> Format:
        """The format of a suffix. Instructions without one, or in ``.txt``, are JSON."""
        if suffix == "" or (suffix in (".txt", ".text") and self.default == "json"):
            return self.default
        if known := self._known.get(suffix):
            return known
        packed = ", ".join(sorted(ARCHIVES))
        raise UnreadableError(
            f"unknown suffix {suffix}. Known are {', '.join(sorted(self._known))}, also packed as "
            f"{packed}. Rename the file, or state its format in params.yaml: format: "
            f"{self.default}"
        )

    def _members(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a zip archive's members, in the order of their names."""
        with _opened(file) as archive:
            members = [item for item in archive.infolist() if self._is_member(item.filename)]
            if not members:
                raise UnreadableError(f"no file in it ends in {self.suffixes()}")
            # `zipfile` reads no more than the stated size, so a false size cannot hide a bomb.
            check_expansion(sum(item.file_size for item in members), most)
            for item in sorted(members, key=lambda item: item.filename):
                if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # Other compressions have no limit on the size of a block.
                    raise UnreadableError("archive of another compression than deflate. Repack it")
                try:
                    member = cast(zipfile.ZipExtFile, archive.open(item))
                except (RuntimeError, ValueError, OverflowError) as error:
                    # A password or another unsupported feature, or an invalid offset.
                    raise UnreadableError(f"archive that cannot be read ({error})") from error
                with member:
                    found = self._rows_or_problem(item.filename, member, most)
                    yield from inside(name, item.filename, found)

    def _seekable(self, file: BufferedIOBase, most: int) -> BufferedIOBase:
        """A file whose end can be read first, as Parquet and zip need it."""
        packed = isinstance(file, Decompressed | zipfile.ZipExtFile)
        return BytesIO(LimitedFile(file, self.largest, most).rest()) if packed else file

    def _is_member(self, name: str) -> bool:
        """Whether a name is that of a file to parse: no directory, and no nested archive, because
        nesting may be endless."""
        return not name.lower().endswith(("/", *ARCHIVES)) and self.knows(name)


def _refuse_html(row: Row) -> Row:
    """The row, or a problem if its text is HTML: many web pages have no suffix that says so."""
    if isinstance(row.value, str) and HTML.match(row.value):
        return row._replace(
            value=None,
            problem="HTML, not text. In params.yaml, format: html extracts its text, "
            "format: text keeps the markup",
        )
    return row


def _opened(file: BufferedIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (NotImplementedError, ValueError, OverflowError) as error:
        # Another unsupported feature, or an invalid name or offset.
        raise UnreadableError(f"damaged archive ({error})") from error
