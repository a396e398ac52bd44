"""Strict validation of ``params.yaml``: unknown keys, wrong types and values out of range.

Each section has its schema, a subclass of `Params`, in the module that uses it.
"""

import math
import re
from collections.abc import Hashable
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeForm

from gpt2.core.errors import UserError


class Params(BaseModel):
    """Base class of all sections: immutable, no unknown keys, no implicit type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Positive = Annotated[int, Field(gt=0)]
"""An integer of at least 1."""
NonNegative = Annotated[int, Field(ge=0)]
"""An integer of at least 0."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A number in [0, 1)."""

Section = TypeVar("Section")


def parse(schema: TypeForm[Section], values: object, where: str) -> Section:
    """Validate ``values`` against ``schema``, a `Params` class or a union of them.

    ``where`` is the prefix of each message.

    Raises:
        UserError: lists all problems, each with the path of its key.
    """
    try:
        parsed: Section = _adapter(cast(Hashable, schema)).validate_python(values)
        return parsed
    except ValidationError as error:
        problems = [_describe(where, problem) for problem in error.errors()]
        heading = [] if len(problems) == 1 else [f"{len(problems)} problems:"]
        raise UserError("\n  ".join([*heading, *problems])) from error


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    # Building an adapter takes far longer than using it, and a file has thousands of records.
    return TypeAdapter(schema)


def _describe(where: str, problem: Any) -> str:
    # For a discriminated union, pydantic adds the tag to the path; it is not a key in the file.
    key = ".".join([where, *(str(part) for part in problem["loc"])])
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if problem["type"] == "missing":
        return f"{key}: missing"
    hint = ""
    if isinstance(value, str) and problem["type"].startswith(("float", "int")):
        number = _yaml_number(value, int if problem["type"].startswith("int") else float)
        hint = f". Write it without quotes: {number}" if number else ""
    elif problem["type"] == "string_type" and not isinstance(value, dict | list | None):
        hint = ". Put it in quotes"
    elif problem["type"] == "bool_type" and isinstance(value, str):
        hint = ". Write true or false"
    found = re.sub("//[^/@]*@", "//***@", repr(value))  # hides passwords in URLs
    shown = "" if isinstance(value, dict | list) else f" (found {found}, {type(value).__name__})"
    return f"{key}: {problem['msg']}{shown}{hint}"


def _yaml_number(text: str, kind: type[int | float]) -> str:
    """The number in ``text`` as YAML writes it, or an empty string."""
    try:
        number = kind(text)
    except ValueError:
        return ""
    return repr(number) if math.isfinite(number) else ""
