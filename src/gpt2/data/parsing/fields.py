"""The fields of a row that are needed: other names and paths, empty values, values without text."""

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from gpt2.data.parsing.conversations import records_of
from gpt2.data.parsing.field_paths import find, first_step, roots
from gpt2.data.parsing.layouts import missing_columns
from gpt2.data.parsing.rows import UnreadableError

EMPTY_VALUES = frozenset(
    ("<noinput>", "<no input>", "noinput", "n/a", "nan", "none", "null", "<na>", "#n/a")
)
"""Texts that mean an empty input in public data, in lower case."""


class Wanted(NamedTuple):
    """The fields that are needed of each record."""

    paths: Mapping[str, str]
    """Path in the data of each field."""
    required: Collection[str] = ()
    """Fields that every record must have."""

    @property
    def roots(self) -> frozenset[str]:
        """All columns that may hold a needed field."""
        return roots(self.paths.values())

    def missing(self, columns: Collection[str]) -> list[str]:
        """The required fields that are in none of the columns."""
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
    """The fields of each Alpaca record in a row: one record, or one for each reply.

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
    """The needed fields of a record. Any other value is returned as it is: the schema refuses it.

    Args:
        value: an object, or a list if paths begin with a list index.
        wanted: path of each field.
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
    # An optional field may also be empty, as in a table.
    return {name: it for name, it in fields.items() if it != "" or name in wanted.required}


def is_null(value: object) -> bool:
    """Whether a value is null, or NaN, which is null in pandas."""
    return value is None or value != value


def as_text(value: object) -> object:
    """A number, boolean or date as in JSON, a list with one line per item; others unchanged."""
    if isinstance(value, list):
        items = [as_text(item) for item in value if not is_null(item)]
        return "\n".join(map(str, items)) if all(isinstance(i, str) for i in items) else value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return str(value) if isinstance(value, Decimal | date | datetime | time) else value
