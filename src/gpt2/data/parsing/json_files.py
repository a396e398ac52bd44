"""JSON: lists, objects one a line or one after another, and tables column by column."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from gpt2.data.parsing.field_paths import find
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.limits import LimitedFile
from gpt2.data.parsing.rows import EMPTY, Row, UnreadableError, decoded, numbered

ENVELOPES = ("data", "records", "rows", "examples", "items")
"""Fields of a file's only object that may hold its records."""
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|$)|[{}\[\]]')
"""What opens and closes in a line of JSON; strings, so that those in them do not count."""


def json_rows(name: str, file: LimitedFile, wanted: Wanted) -> Iterator[Row]:
    """The rows of a file, whichever kind of JSON it holds.

    A file that begins with ``[`` is a list. In any other objects stand one a line; or, if the first
    line holds less or more than one, one after another. The only object of a file may be a table:
    see `records_in`.
    """
    lines = file.filled_lines()
    number, line = next(lines, (0, b""))
    start = line.removeprefix(BOM_UTF8).lstrip()
    if not start:
        raise UnreadableError(EMPTY)
    names = [wanted.paths[field].encode() for field in wanted.required]
    if b"{" not in start and names and all(name in start for name in names):
        raise UnreadableError("CSV, not JSON. Rename it, or in params.yaml: format: csv")
    if start.startswith(b"["):
        rest = file.rest()
        file.check_size(len(line) + len(rest))
        yield from _listed(name, _parsed(b"\n" * (number - 1) + line + rest))
        return
    objects = _objects if start.startswith(b"{") and not _is_one_value(line) else _lines
    rows = objects(name, chain([(number, line)], lines), file)
    first = next(rows)
    table = records_in(first.value, wanted) if isinstance(first.value, dict) else None
    second = next(rows, None) if table is not None else None
    if table is not None and second is None:
        yield from _listed(name, table)
        return
    yield first
    if second is not None:
        yield second
    yield from rows


def records_in(table: dict[str, Any], wanted: Wanted) -> list[Any] | None:
    """The records of a table that is one JSON object; None if it is a record itself.

    It may be what pandas' ``to_json`` writes by columns, by index, split or as a table with schema,
    or an object with the records in one of its `ENVELOPES`, or in the only list that it holds.
    """
    fields = [find(table, wanted.paths[field]) for field in wanted.required]
    if all(isinstance(field, str | int | float) for field in fields):
        return None
    match table:
        case {"columns": [*columns], "data": [*rows]} if all(
            isinstance(row, list) and len(row) == len(columns) for row in rows
        ):
            return [dict(zip(map(str, columns), row, strict=True)) for row in rows]
    for field in ENVELOPES:
        if isinstance(table.get(field), list) and field not in wanted.roots:
            records: list[Any] = table[field]
            return records
    lists = [value for value in table.values() if isinstance(value, list) and value]
    if len(lists) == 1 and isinstance(lists[0][0], dict) and not wanted.missing(lists[0][0]):
        return lists[0]
    columns, first = list(table.values()), next(iter(table.values()), None)
    if isinstance(first, dict) and all(isinstance(column, dict) for column in columns):
        if not wanted.missing(table) and all(column.keys() == first.keys() for column in columns):
            return [{name: table[name][key] for name in table} for key in first]
        if not wanted.missing(first):
            return columns
    return None


def _listed(name: str, values: list[Any]) -> Iterator[Row]:
    if not values:
        raise UnreadableError("an empty list. Give it records, or name another file")
    return numbered(name, "record", values)


def _parsed(content: bytes) -> list[Any]:
    try:
        values: list[Any] = json.loads(decoded(content))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not valid JSON ({error})") from error
    return values


def _is_one_value(line: bytes) -> bool:
    """Whether a line holds a whole value, or one with a mistake in it: not a part, not several."""
    try:
        text = decoded(line).rstrip()
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos < len(text) and error.msg != "Extra data"
    except (ValueError, RecursionError, UnreadableError):
        return True
    return True


def _lines(name: str, lines: Iterable[tuple[int, bytes]], file: LimitedFile) -> Iterator[Row]:
    """A value from each line."""
    for number, line in lines:
        row = Row(f"{name}:{number}", f"line {number}", None)
        try:
            yield row._replace(value=json.loads(decoded(line)))
        except (UnreadableError, ValueError, RecursionError) as error:
            yield row._replace(problem=_problem(error))


def _objects(name: str, lines: Iterable[tuple[int, bytes]], file: LimitedFile) -> Iterator[Row]:
    """Objects that stand one after another, over any number of lines."""
    record = 0
    for number, content in _balanced(lines, file):
        for value in _values(content):
            record += 1
            row = Row(f"{name}:{record}", f"record {record} (line {number})", None)
            wrong = isinstance(value, Exception)
            yield row._replace(problem=_problem(value)) if wrong else row._replace(value=value)


def _values(content: bytes) -> Iterator[Any]:
    """All values of a text, and at the end why there are no more, if it is for a mistake."""
    decoder, place = json.JSONDecoder(), 0
    try:
        text = decoded(content).strip()
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            place = _between(text, place)
            yield value
    except (UnreadableError, ValueError, RecursionError) as error:
        yield error


def _balanced(lines: Iterable[tuple[int, bytes]], file: LimitedFile) -> Iterator[tuple[int, bytes]]:
    """Lines joined until everything that they open is closed; the number of the first one."""
    parts: list[bytes] = []
    begin = depth = size = 0
    for number, line in lines:
        # An object within another one follows a name: this is the next one, the last has no end.
        if depth == 1 and line.startswith(b"{") and not parts[-1].rstrip().endswith(b":"):
            yield begin, b"".join(parts)
            parts, depth, size = [], 0, 0
        begin = begin if parts else number
        parts.append(line)
        size += len(line)
        file.check_size(size)
        for mark in _MARKS.findall(line):
            depth += (mark in b"{[") - (mark in b"}]")
        if depth <= 0:
            yield begin, b"".join(parts)
            parts, depth, size = [], 0, 0
    if parts:
        yield begin, b"".join(parts)


def _between(text: str, place: int) -> int:
    """Where the white space after ``place`` ends."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _problem(error: Exception) -> str:
    if isinstance(error, UnreadableError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"not valid JSON ({error.msg}, {line}column {error.colno})"
    return f"not valid JSON ({error})"  # a number, or a nesting, without end
