"""Rows: the items of a parsed file, with their places for messages, or with what went wrong."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

EMPTY = "empty. Give it text, or name another file in the parameters"


class Row(NamedTuple):
    """A record as it is in its file, not checked yet, or a whole text."""

    name: str
    """Name of the document or record that is made from it: ``alpaca.json:5``."""
    place: str
    """``line 5``, for messages; empty if the file itself is the row."""
    value: object
    """A text, or a value from JSON, CSV or Parquet."""
    problem: str = ""
    """Why there is no value."""
    separator: str = ""
    """The separator of the documents in a text file, if this is one of several."""


class RawData(NamedTuple):
    """The rows of a source."""

    origin: str
    """The path, address or name with which messages begin."""
    rows: Iterable[Row]
    facts: dict[str, Any]
    """Where the rows come from, for the manifest; complete after the last row."""


class UnreadableError(Exception):
    """A file cannot be parsed any further; the text says why."""


def inside(folder: str, name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the file ``name`` inside ``folder``, a directory or an archive: names and places
    include it."""
    for row in rows:
        place = f"{name}, {row.place}" if row.place else name
        yield row._replace(name=f"{folder}/{row.name}" if folder else row.name, place=place)


def numbered(name: str, kind: str, values: Iterable[object]) -> Iterator[Row]:
    """Each value as a row. Its name and place have its number: ``row 1``, ``row 2``, ..."""
    for number, value in enumerate(values, start=1):
        yield Row(f"{name}:{number}", f"{kind} {number}", value)


def decoded(content: bytes, start: int = 0) -> str:
    """Decode UTF-8, without the byte order mark of some editors.

    Args:
        content: the bytes.
        start: number of bytes before them in the file, for the message.

    Raises:
        UnreadableError: it is not UTF-8, or has a zero byte.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.start` does not count the byte order mark of three bytes.
        place = start + len(content) - len(error.object) + error.start
        raise UnreadableError(
            f"byte {place} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with iconv"
        ) from error
    if "\0" in text:
        place = start + content.index(0)
        raise UnreadableError(f"byte {place} is 0, so this is not text. Unpack it first")
    return text


def non_empty(text: str) -> str:
    """The text. Raise `UnreadableError` if it is only white space."""
    if not text.strip():
        raise UnreadableError(EMPTY)
    return text
