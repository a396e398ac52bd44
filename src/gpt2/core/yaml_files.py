"""YAML 1.2 files, read and written as DVC does, so that both see the same values."""

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from typing_extensions import TypeForm

from gpt2.core.errors import UserError
from gpt2.core.params import parse

Section = TypeVar("Section")

MOST_VALUES = 100_000
"""The most values in a file. A few lines of nested aliases can expand to billions."""
AMBIGUOUS = re.compile(
    r"[yn]|yes|no|on|off|[-+]?[\d_.:]*\d[\d_.:]*|[-+]?(0[xob])?[\da-f.]*_[\da-f_.+-]*",
    re.IGNORECASE | re.ASCII,
)
"""Scalars that YAML 1.1 may read differently: words for booleans, octal and base-60 numbers, and
numbers with underscores."""
INVALID_VALUES = (ValueError, LookupError, AttributeError, AssertionError, RecursionError)
"""What ruamel.yaml raises besides its own errors: 2026-13-45, !!bool maybe, %YAML 1.3, [[[[..."""


@dataclass(frozen=True)
class YamlFile:
    """A parsed YAML file with a mapping at the top."""

    path: Path
    values: dict[str, Any]
    tree: Node
    """The nodes that the values come from, with their original text."""


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML 1.2 file, with each scalar as DVC reads it.

    Raises:
        UserError: the file is missing, not UTF-8, not YAML, not a mapping, or too large.
    """
    return read_yaml(path).values


def load(schema: TypeForm[Section], path: Path, section: str) -> Section:
    """Read one section of a parameter file and validate it against ``schema``."""
    return parse_section(schema, load_yaml(path), path, section)


def parse_section(
    schema: TypeForm[Section], values: Mapping[str, Any], path: Path, section: str
) -> Section:
    """Validate one section of the ``values`` that were read from ``path``."""
    if section not in values:
        raise UserError(f"{path}: section '{section}' is missing")
    return parse(schema, values[section], f"{path.name}: {section}")


def dump_yaml(values: Mapping[str, object]) -> str:
    """The text of a YAML 1.2 file, as DVC writes it."""
    yaml, stream = YAML(), StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def read_yaml(path: Path) -> YamlFile:
    """Like `load_yaml`, but keeps the original text of each scalar for `ambiguities`."""
    yaml = YAML(typ="safe", pure=True)  # as DVC does
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"))
        if tree and _count(tree, {}) > MOST_VALUES:
            raise UserError(
                f"{path}: more than {MOST_VALUES:,} values. Are aliases nested in aliases?"
            )
        values = yaml.constructor.construct_document(tree) if tree else None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: not valid YAML ({line}{error.problem})") from error
    except (YAMLError, *INVALID_VALUES) as error:
        raise UserError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    for key in _non_string_keys(values):
        raise UserError(f"{path}: the key {key} is not a string. Put it in quotes")
    return YamlFile(path, values, tree)


def ambiguities(file: YamlFile, sections: Container[str]) -> Iterator[str]:
    """A note for each scalar in these sections that other YAML readers may take for another value.

    These are scalars that YAML 1.1 reads differently (``yes``, ``017``, ``1:30``), and numbers such
    as ``1_000``, which some YAML 1.2 readers take for strings.
    """
    yaml, yaml_1_1 = YAML(typ="safe", pure=True), YAML(typ="safe", pure=True)
    yaml_1_1.version = (1, 1)
    for keys, node in _scalars(file.tree):
        if keys[0] not in sections or node.style or not AMBIGUOUS.fullmatch(node.value):
            continue
        new = old = yaml.constructor.construct_object(node)
        if not isinstance(new, float):  # floats have the same syntax in both versions
            tag = yaml_1_1.resolver.resolve(ScalarNode, node.value, (True, False))
            old = yaml_1_1.constructor.construct_object(ScalarNode(tag, node.value))
        start = f"{file.path}: {'.'.join(keys)}: {node.value} is read as {json.dumps(new)}"
        if new != old:
            yield f"{start}, but in YAML 1.1 it is {json.dumps(old)}. Write the one that you mean"
        elif "_" in node.value and not isinstance(new, str):
            yield f"{start}, but YAML 1.2 has no _ in numbers. Write {json.dumps(new)}"


def _count(node: Node, counted: dict[int, int]) -> int:
    """The number of values, including keys; an alias counts as often as it is used."""
    if isinstance(node, MappingNode):
        parts = list(chain.from_iterable(node.value))
    else:
        parts = node.value if isinstance(node, SequenceNode) else []
    if id(node) not in counted:
        counted[id(node)] = MOST_VALUES + 1  # for an alias that contains itself
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(node)]


def _scalars(node: Node, *keys: str) -> Iterator[tuple[Sequence[str], ScalarNode]]:
    """Every scalar that is a value, with the path of its keys."""
    if isinstance(node, ScalarNode):
        yield keys, node
    elif isinstance(node, SequenceNode):
        for index, part in enumerate(node.value):
            yield from _scalars(part, *keys, str(index))
    else:
        for key, part in node.value:
            yield from _scalars(part, *keys, str(key.value))


def _non_string_keys(value: object) -> Iterator[object]:
    """Keys that are not strings, at any depth."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _non_string_keys(part)
