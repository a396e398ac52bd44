"""YAML 1.2 as DVC reads and writes it, so that both take each scalar for the same value."""

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
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
"""In a YAML file. A few lines of aliases can stand for billions."""
DISPUTED = re.compile(
    r"[yn]|yes|no|on|off|[-+]?[\d_.:]*\d[\d_.:]*|[-+]?(0[xob])?[\da-f.]*_[\da-f_.+-]*",
    re.IGNORECASE | re.ASCII,
)
"""What may be disputed: words, numbers in octal or to the base of 60, and with a _ in them."""
WRONG_VALUES = (ValueError, LookupError, AttributeError, AssertionError, RecursionError)
"""What ruamel.yaml raises besides its own errors: 2026-13-45, !!bool maybe, %YAML 1.3, [[[[..."""


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML 1.2 file, each scalar as DVC reads and writes it.

    Raises:
        UserError: the file is missing, not UTF-8, not YAML, not a mapping, or too large.
    """
    return _read(path)[0]


def dump_yaml(values: Mapping[str, object]) -> str:
    """The text of a YAML 1.2 file, as DVC writes it."""
    yaml, stream = YAML(), StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def load(schema: TypeForm[Section], path: Path, section: str) -> Section:
    """One section of a parameter file as ``schema``."""
    return choose(schema, load_yaml(path), path, section)


def choose(
    schema: TypeForm[Section], values: Mapping[str, Any], path: Path, section: str
) -> Section:
    """One of the sections that `load_yaml` read from ``path``."""
    if section not in values:
        raise UserError(f"{path}: section '{section}' is missing")
    return parse(schema, values[section], f"{path.name}: {section}")


def disputed(path: Path, sections: Container[str]) -> Iterator[str]:
    """A note on each scalar of these sections that YAML 1.1 takes for another value (``yes``,
    ``017``, ``1:30``), and on numbers such as ``1_000``, which other readers take for text.
    """
    yaml, yaml_1_1 = YAML(typ="safe", pure=True), YAML(typ="safe", pure=True)
    yaml_1_1.version = (1, 1)
    for keys, node in _scalars(_read(path)[1]):
        if keys[0] not in sections or node.style or not DISPUTED.fullmatch(node.value):
            continue
        new = old = yaml.constructor.construct_object(node)
        if not isinstance(new, float):  # which both write alike
            tag = yaml_1_1.resolver.resolve(ScalarNode, node.value, (True, False))
            old = yaml_1_1.constructor.construct_object(ScalarNode(tag, node.value))
        start = f"{path}: {'.'.join(keys)}: {node.value} is read as {json.dumps(new)}"
        if new != old:
            yield f"{start}, in YAML 1.1 it was {json.dumps(old)}. Write the one that you mean"
        elif "_" in node.value and not isinstance(new, str):
            yield f"{start}, but YAML 1.2 knows no _ in numbers. Write {json.dumps(new)}"


def _read(path: Path) -> tuple[dict[str, Any], Node]:
    """The mapping at the top of a file, and the nodes that it was made of."""
    yaml = YAML(typ="safe", pure=True)  # DVC's way, so that both read the same
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"))
        if tree and _count(tree, {}) > MOST_VALUES:
            raise UserError(
                f"{path}: more than {MOST_VALUES:,} values. Are aliases inside of aliases?"
            )
        values = yaml.constructor.construct_document(tree) if tree else None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: not valid YAML ({line}{error.problem})") from error
    except (YAMLError, *WRONG_VALUES) as error:
        raise UserError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    for key in _other_keys(values):
        raise UserError(f"{path}: the key {key} is no text. Put it in quotes")
    return values, tree


def _count(node: Node, counted: dict[int, int]) -> int:
    """How many values there are, keys included; what an alias stands for counts each time."""
    if isinstance(node, MappingNode):
        parts = list(chain.from_iterable(node.value))
    else:
        parts = node.value if isinstance(node, SequenceNode) else []
    if id(node) not in counted:
        counted[id(node)] = MOST_VALUES + 1  # for an alias of itself, which has no end
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(node)]


def _scalars(node: Node, *keys: str) -> Iterator[tuple[Sequence[str], ScalarNode]]:
    """Every scalar that is a value, with the keys that lead to it."""
    if isinstance(node, ScalarNode):
        yield keys, node
    elif isinstance(node, SequenceNode):
        for index, part in enumerate(node.value):
            yield from _scalars(part, *keys, str(index))
    else:
        for key, part in node.value:
            yield from _scalars(part, *keys, str(key.value))


def _other_keys(value: object) -> Iterator[object]:
    """Keys that are no text, at any depth."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _other_keys(part)
