"""What stands in a row's fields: other names and places of them, nothing, and no text."""

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal

from gpt2.sources.paths import find

NOTHING = frozenset(
    ("<noinput>", "<no input>", "noinput", "n/a", "nan", "none", "null", "<na>", "#n/a")
)
"""What stands for an empty input in public data, in lower case."""


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
