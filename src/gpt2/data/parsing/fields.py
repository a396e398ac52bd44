"""The fields that are wanted of rows: other names and places of them, nothing, and no text."""

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from gpt2.data.parsing.conversations import records_of
from gpt2.data.parsing.field_paths import find, first_step, roots
from gpt2.data.parsing.layouts import missing_columns
from gpt2.data.parsing.rows import UnreadableError

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


def document_fields(value: object, column: str, wanted: Wanted, coerce: bool) -> list[object]:
    """The fields of the document in a row: a text, or a record with one in ``column``."""
    return [fields_of({column: value} if isinstance(value, str) else value, wanted, coerce)]


def record_fields(value: object, wanted: Wanted, coerce: bool) -> list[object]:
    """The fields of each of Alpaca's records in a row: one, or one for each reply.

    Raises:
        ConversationError: the turns of a conversation are not question and reply.
    """
    fields = fields_of(value, wanted, coerce)
    if not isinstance(fields, dict):
        return [fields]
    system, turns = fields.pop("system", ""), fields.pop("conversation", None)
    if "conversation" in wanted.required:
        return [{**fields, **record} for record in records_of(turns, system)]
    if system and "instruction" in fields:
        fields["instruction"] = f"{system}\n\n{fields['instruction']}"
    return [fields]


def fields_of(value: object, wanted: Wanted, coerce: bool) -> object:
    """Our fields that a record has; of what is no record, itself: the schema says so.

    Args:
        value: an object, or a list if it is wanted by places.
        wanted: where in it each of our fields stands.
        coerce: whether numbers, booleans and lists become text.
    """
    listed = isinstance(value, list) and any(path.startswith("[") for path in wanted.paths.values())
    if not isinstance(value, dict) and not listed:
        return value
    fields = {}
    for name, path in wanted.paths.items():
        found = find(value, path)
        if not is_null(found):
            fields[name] = as_text(found) if coerce else found
    # What may be left out may also be empty, as in a table.
    return {name: it for name, it in fields.items() if it != "" or name in wanted.required}


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
