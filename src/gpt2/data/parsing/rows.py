"""What readers give: rows, each with its place for messages, or why there are no more."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

EMPTY = "empty. Give it text, or name another file in the parameters"


class Row(NamedTuple):
    """A record as it stands in its file, not yet checked, or a whole text."""

    name: str
    """What is made of it is called so: ``alpaca.json:5``."""
    place: str
    """``line 5``, for messages; empty where the file itself is the row."""
    value: object
    """A text, or what JSON, CSV or Parquet holds."""
    problem: str = ""
    """Why there is no value."""
    divided_at: str = ""
    """What a file of text was divided at, if this is one of its documents."""


class RawData(NamedTuple):
    """What a source gives."""

    origin: str
    """The path, address or name that leads messages."""
    rows: Iterable[Row]
    facts: dict[str, Any]
    """Where the rows come from, for the manifest; complete when the rows have been read."""


class UnreadableError(Exception):
    """Why no more rows of a file can be had."""


def inside(folder: str, name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the file ``name`` as those of a file inside ``folder``, a directory or an archive."""
    for row in rows:
        place = f"{name}, {row.place}" if row.place else name
        yield row._replace(name=f"{folder}/{row.name}" if folder else row.name, place=place)


def numbered(name: str, kind: str, values: Iterable[object]) -> Iterator[Row]:
    """Each value as a row, named and placed by its number: ``row 1``, ``row 2``, ..."""
    for number, value in enumerate(values, start=1):
        yield Row(f"{name}:{number}", f"{kind} {number}", value)


def decoded(content: bytes, start: int = 0) -> str:
    """Text without the byte order mark of some editors.

    Args:
        content: UTF-8.
        start: the number of bytes before it in the file, for the message.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Counted without the byte order mark, which is three bytes.
        place = start + len(content) - len(error.object) + error.start
        raise UnreadableError(
            f"byte {place} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with iconv"
        ) from error
    if "\0" in text:
        place = start + content.index(0)
        raise UnreadableError(f"byte {place} is 0, so this is no text. Unpack it first")
    return text


def filled(text: str) -> str:
    """The text, if it is more than white space."""
    if not text.strip():
        raise UnreadableError(EMPTY)
    return text
