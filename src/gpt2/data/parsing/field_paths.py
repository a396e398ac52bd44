"""Where in a record a field stands: ``a.b``, ``list[0].x``."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

FieldPath = Annotated[str, Field(min_length=1)]
"""The name of a field, or the way to one within others: ``a.b``, ``list[0].x``, ``[-1]``."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d{1,9})\]")


def find(record: object, path: FieldPath) -> object:
    """The value at ``path``, None if there is none; a field of just this name comes first."""
    if isinstance(record, dict) and path in record:
        return record[path]
    for step in _steps(path):
        if isinstance(step, str) and isinstance(record, dict):
            record = record.get(step)
        elif isinstance(step, int) and isinstance(record, list):
            record = record[step] if -len(record) <= step < len(record) else None
        else:
            return None
    return record


def _steps(path: FieldPath) -> Iterable[str | int]:
    """Names and places in lists."""
    for name, place in _STEP.findall(path):
        yield name or int(place)


def first_step(path: FieldPath) -> str:
    """The field of a record that ``path`` begins with; empty if that is a place in a list."""
    match = _STEP.match(path)
    return match[1] or "" if match else path


def roots(paths: Iterable[FieldPath]) -> frozenset[str]:
    """All fields of a record that may hold what stands at ``paths``."""
    return frozenset(name for path in paths for name in (path, first_step(path)) if name)
