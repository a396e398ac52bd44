"""``params.yaml`` read strictly: every unknown key, wrong type and value out of range, all at once.

The schema of a section stands beside its owner (a subclass of `Params`), not here.
"""

import re
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeForm

from gpt2.errors import UserError


class Params(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Positive = Annotated[int, Field(gt=0)]
"""An integer of at least 1."""
NonNegative = Annotated[int, Field(ge=0)]
"""An integer of at least 0."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A number in [0, 1)."""

MOST_VALUES = 100_000
"""In a YAML file. A few lines of aliases can stand for billions."""

Section = TypeVar("Section")


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file.

    Raises:
        UserError: the file is missing, not UTF-8, not YAML, not a mapping, or too large.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # Not all that PyYAML raises is its own: 2026-13-45, !!bool maybe, !!timestamp never, [[[[...
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    if _count(values, {}) > MOST_VALUES:
        raise UserError(f"{path}: more than {MOST_VALUES:,} values. Are aliases inside of aliases?")
    return values


def _count(value: object, counted: dict[int, int]) -> int:
    """How many values there are; what an alias stands for counts each time."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if id(value) not in counted:
        counted[id(value)] = MOST_VALUES + 1  # for an alias of itself, which has no end
        counted[id(value)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(value)]


def parse(schema: TypeForm[Section], values: object, where: str) -> Section:
    """``values`` as ``schema`` (a `Params` class or a union of them); ``where`` leads each message.

    Raises:
        UserError: lists every problem with the path of its key.
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
    # Building one takes far longer than using it, and a file has many thousands of records.
    return TypeAdapter(schema)


def load(schema: TypeForm[Section], path: Path, section: str) -> Section:
    """One section of a parameter file as ``schema``."""
    values = load_yaml(path)
    if section not in values:
        raise UserError(f"{path}: section '{section}' is missing")
    return parse(schema, values[section], f"{path.name}: {section}")


def _describe(where: str, problem: Any) -> str:
    # pydantic puts the tag of a discriminated union into the path; it is no key of the user's file.
    key = ".".join([where, *(str(part) for part in problem["loc"])])
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if problem["type"] == "missing":
        return f"{key}: missing"
    hint = ""
    if (
        isinstance(value, str)
        and problem["type"].startswith(("float", "int"))
        and _is_number(value)
    ):
        hint = f". YAML reads {value} as text: write {_as_yaml(value)}"
    found = re.sub("//[^/@]*@", "//***@", repr(value))  # a password in an address is not told
    shown = "" if isinstance(value, dict | list) else f" (found {found}, {type(value).__name__})"
    return f"{key}: {problem['msg']}{shown}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_yaml(text: str) -> str:
    """A spelling of the number that YAML 1.1 reads as one: it wants a dot and a signed exponent."""
    mantissa, _, exponent = text.lower().partition("e")
    if not exponent:
        return text.strip()
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"
