"""The fields that are wanted of rows: other names and places of them, nothing, and no text."""

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from gpt2.sources.layouts import missing_columns
from gpt2.sources.paths import find, first_step, roots
from gpt2.sources.rows import UnreadableError

NOTHING = frozenset(
    ("<noinput>", "<no input>", "noinput", "n/a", "nan", "none", "null", "<na>", "#n/a")
)
"""What stands for an empty input in public data, in lower case."""


class Wanted(NamedTuple):
    """The fields that are wanted of each record."""

    paths: Mapping[str, str]
    """Where in the data each of our fields stands."""
    required: Collection[str] = ()
    """Those of our fields that no record can be without."""

    @property
    def roots(self) -> frozenset[str]:
        """All columns that may hold a wanted field."""
        return roots(self.paths.values())

    def missing(self, columns: Collection[str]) -> list[str]:
        """The required fields that stand in none of the columns."""
        return [
            field
            for field in self.required
            if not {path := self.paths[field], first_step(path)} & {*columns, ""}
        ]

    def check(self, columns: Collection[str]) -> None:
        """Raise `UnreadableError` if a required field is in none of the columns."""
        if missing := self.missing(columns):
            raise UnreadableError(missing_columns(missing, self.paths, columns))


def fields_of(record: object, paths: Mapping[str, str], coerce: bool) -> dict[str, object]:
    """Our fields that are there and not null.

    Args:
        record: an object or a list.
        paths: where in it each of our fields stands.
        coerce: whether numbers, booleans and lists become text.
    """
    found = {field: find(record, path) for field, path in paths.items()}
    there = {field: value for field, value in found.items() if not is_null(value)}
    return {field: as_text(value) for field, value in there.items()} if coerce else there


def is_null(value: object) -> bool:
    """Whether a value stands for none: null, and NaN, which is pandas' null."""
    return value is None or value != value


def as_text(value: object) -> object:
    """A number, a boolean or a date as JSON writes it, a list with an item a line; else itself."""
    if isinstance(value, list):
        items = [as_text(item) for item in value if not is_null(item)]
        return "\n".join(map(str, items)) if all(isinstance(i, str) for i in items) else value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return str(value) if isinstance(value, Decimal | date | datetime | time) else value
