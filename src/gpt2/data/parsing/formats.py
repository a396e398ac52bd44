"""Files of text, HTML, JSON, CSV or Parquet, plain, compressed or in ``.zip``, as rows.

A file is what its suffix says. Rows come as they are read: nothing is unpacked to disk, and what is
in memory at a time, a text, a line or a list of JSON, is no larger than it may be. An archive may
expand to `EXPANSION` times its length in all: it may be a bomb.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import SEEK_END, BufferedIOBase, BytesIO
from pathlib import PurePosixPath
from typing import Literal, cast

from gpt2.core.params import Params
from gpt2.data.parsing.compression import UNPACKED, Unpacked, damage_told
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.json_files import json_rows
from gpt2.data.parsing.limits import LimitedFile, check_expansion
from gpt2.data.parsing.rows import Row, UnreadableError, inside
from gpt2.data.parsing.tables import CsvParams, csv_rows, parquet_rows
from gpt2.data.parsing.texts import NONE, html_row, text_rows

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
"""What only a corpus may be; Markdown is text as it stands."""
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
ARCHIVES = (*UNPACKED, ".zip")
LARGEST = 2 * 2**30
"""Bytes of what is all in memory."""
EXPANSION = 100
"""Times its own length, an archive may expand to. Text comes to 3 to 10 times, a bomb to 1,000."""
ROOM = 64 * 2**20
"""Bytes that an archive may expand to, however short it is."""


class FormatParams(Params):
    """What files hold, where they do not say it."""

    format: Format | None = None
    """Of every file, also in a directory or an archive; null: what its suffix says."""
    csv: CsvParams = CsvParams()


@dataclass(frozen=True)
class Reader:
    """Files as rows."""

    wanted: Wanted
    otherwise: Literal["text", "json"]
    """What a file holds whose name has no suffix: that of a corpus, or of instructions."""
    format: Format | None = None
    """What every file holds, whatever its suffix."""
    csv: CsvParams = field(default_factory=CsvParams)
    separator: str = NONE
    """Between documents of one file; see `text_rows`."""
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
        if suffix in UNPACKED:
            return self.knows(name[: -len(suffix)])
        return self.format is not None or suffix == ".zip" or suffix in self._known

    def rows(self, name: str, file: BufferedIOBase) -> Iterator[Row]:
        """The rows of one file. What is wrong with a row, or the whole file, is told in its place.

        Args:
            name: with the suffixes that tell what it is; the rows are named after it.
            file: open and at its beginning.
        """
        most = max(self.room, EXPANSION * file.seek(0, SEEK_END))
        file.seek(0)
        return self._told(name, file, most)

    def suffixes(self) -> str:
        """The end of a message that nothing known was found."""
        return f"{', '.join(sorted(self._known))}. Name another one, or set the key format"

    @property
    def _known(self) -> dict[str, Format]:
        return RECORDS | TEXTS if self.otherwise == "text" else RECORDS

    def _told(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file, or why there are no more."""
        try:
            with damage_told():
                yield from self._rows(name, file, most)
        except UnreadableError as error:
            yield Row(name, "", None, str(error))

    def _rows(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a file; of an archive, if it holds no more than ``most`` bytes."""
        suffix = PurePosixPath(name).suffix.lower()
        if unpacked := UNPACKED.get(suffix):
            return self._rows(name[: -len(suffix)], unpacked(file), most)
        if suffix == ".zip":
            return self._members(name, self._seekable(file, most), most)
        limited = LimitedFile(file, self.largest, most)
        match self.format or self._told_by(suffix):
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
                return rows if self.format else map(_without_markup, rows)

    def _told_by(self, suffix: str) -> Format:
        """What a suffix says; without one, and in ``.txt``, instructions are JSON."""
        if suffix == "" or (suffix in (".txt", ".text") and self.otherwise == "json"):
            return self.otherwise
        if known := self._known.get(suffix):
            return known
        packed = ", ".join(sorted(ARCHIVES))
        raise UnreadableError(
            f"what {suffix} holds is not known. Known are {', '.join(sorted(self._known))}, also "
            f"packed as {packed}. Rename it, or say what it holds in params.yaml: format: "
            f"{self.otherwise}"
        )

    def _members(self, name: str, file: BufferedIOBase, most: int) -> Iterator[Row]:
        """The rows of a zip archive's members, in the order of their names."""
        with _opened(file) as archive:
            members = [item for item in archive.infolist() if self._is_member(item.filename)]
            if not members:
                raise UnreadableError(f"no file in it ends in {self.suffixes()}")
            # A member gives no more than its stated size: a lie about it cannot hide a bomb.
            check_expansion(sum(item.file_size for item in members), most)
            for item in sorted(members, key=lambda item: item.filename):
                if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # The others have no limit of what they give at a time.
                    raise UnreadableError("archive of another compression than deflate. Repack it")
                try:
                    member = cast(zipfile.ZipExtFile, archive.open(item))
                except (RuntimeError, ValueError, OverflowError) as error:
                    # A password or another thing that `zipfile` cannot do; a place that cannot be.
                    raise UnreadableError(f"archive that cannot be read ({error})") from error
                with member:
                    yield from inside(name, item.filename, self._told(item.filename, member, most))

    def _seekable(self, file: BufferedIOBase, most: int) -> BufferedIOBase:
        """A file whose end can be read first, as that of Parquet and zip must be."""
        packed = isinstance(file, Unpacked | zipfile.ZipExtFile)
        return BytesIO(LimitedFile(file, self.largest, most).rest()) if packed else file

    def _is_member(self, name: str) -> bool:
        """No directory, and no archive: those within archives may go on without end."""
        return not name.lower().endswith(("/", *ARCHIVES)) and self.knows(name)


def _without_markup(row: Row) -> Row:
    """A text, unless it is HTML: a page from the web often has no suffix that says so."""
    if isinstance(row.value, str) and HTML.match(row.value):
        return row._replace(
            value=None,
            problem="HTML, not text. In params.yaml, format: html reads the text of it, "
            "format: text takes it as it stands",
        )
    return row


def _opened(file: BufferedIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (NotImplementedError, ValueError, OverflowError) as error:
        # Another thing that `zipfile` cannot do; a name or a place that cannot be.
        raise UnreadableError(f"damaged archive ({error})") from error
