"""JSON files: lists, objects one per line or one after another, and tables by columns."""

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
"""Fields that may hold the records, if the file is one object."""
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|$)|[{}\[\]]')
"""Brackets in a line of JSON. Strings match too, so that brackets in them are not counted."""


def json_rows(name: str, file: LimitedFile, wanted: Wanted) -> Iterator[Row]:
    """The rows of a file with any kind of JSON.

    A file that begins with ``[`` is a list. Any other file has one object per line; or, if the
    first line is less or more than one object, objects one after another. If the file is a single
    object, it may be a table: see `records_in`.
    """
    lines = file.non_blank_lines()
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
    """The records of a table that is one JSON object; None if the object is a record itself.

    Supported are the outputs of pandas' ``to_json`` by columns, by index, split or as a table with
    schema, and objects with the records in one of the `ENVELOPES` or in their only list.
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
    """Whether a line is one whole value, perhaps with an error in it: not a part, not several."""
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
    """Objects one after another, each on any number of lines."""
    record = 0
    for number, content in _balanced(lines, file):
        for value in _values(content):
            record += 1
            row = Row(f"{name}:{record}", f"record {record} (line {number})", None)
            wrong = isinstance(value, Exception)
            yield row._replace(problem=_problem(value)) if wrong else row._replace(value=value)


def _values(content: bytes) -> Iterator[Any]:
    """All values in a text. If it has an error, the last item is the exception."""
    decoder, position = json.JSONDecoder(), 0
    try:
        text = decoded(content).strip()
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            position = _skip_spaces(text, position)
            yield value
    except (UnreadableError, ValueError, RecursionError) as error:
        yield error


def _balanced(lines: Iterable[tuple[int, bytes]], file: LimitedFile) -> Iterator[tuple[int, bytes]]:
    """Lines joined until all brackets are closed, with the number of the first line."""
    parts: list[bytes] = []
    begin = depth = size = 0
    for number, line in lines:
        # A nested object follows a name. So this line begins the next object, and the last one has
        # no end.
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


def _skip_spaces(text: str, position: int) -> int:
    """The next position without white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _problem(error: Exception) -> str:
    if isinstance(error, UnreadableError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"not valid JSON ({error.msg}, {line}column {error.colno})"
    return f"not valid JSON ({error})"  # a number that is too long, or too deep a nesting
