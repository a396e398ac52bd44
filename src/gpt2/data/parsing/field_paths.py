"""Paths to fields inside records: ``a.b``, ``list[0].x``."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

FieldPath = Annotated[str, Field(min_length=1)]
"""The name of a field, or a path to a nested one: ``a.b``, ``list[0].x``, ``[-1]``."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d{1,9})\]")


def find(record: object, path: FieldPath) -> object:
    """The value at ``path``, or None. A field whose name is the whole path has precedence."""
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
    """The names and list indices in a path."""
    for name, index in _STEP.findall(path):
        yield name or int(index)


def first_step(path: FieldPath) -> str:
    """The first field in ``path``; empty if it begins with a list index."""
    match = _STEP.match(path)
    return match[1] or "" if match else path


def roots(paths: Iterable[FieldPath]) -> frozenset[str]:
    """All top-level fields of a record that may hold the values at ``paths``."""
    return frozenset(name for path in paths for name in (path, first_step(path)) if name)
