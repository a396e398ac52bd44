"""Known layouts of public data, recognised by their field names, and the parameters for them."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

SHOWN = 20
"""Largest number of field names in a message."""


class _Layout(NamedTuple):
    name: str
    fields: frozenset[str]
    """Data with this layout has all of these fields."""
    line: str
    """The line of params.yaml, below the section."""


def _questions(name: str, **columns: str) -> _Layout:
    """A layout of instruction records; ``columns`` maps Alpaca's field names to those of it."""
    pairs = ", ".join(f"{field}: {column}" for field, column in columns.items())
    return _Layout(name, frozenset(columns.values()), f"columns: {{{pairs}}}")


INSTRUCTIONS = (
    _questions("ShareGPT", conversation="conversations"),
    _questions("OpenAI's messages", conversation="messages"),
    _questions("Dolly", instruction="instruction", input="context", output="response"),
    _questions("OpenOrca", system="system_prompt", instruction="question", output="response"),
    _questions("prompts and completions", instruction="prompt", output="completion"),
    _questions("preferences", instruction="prompt", output="chosen"),
    _questions("prompts and responses", instruction="prompt", output="response"),
    _questions("instructions and responses", instruction="instruction", output="response"),
    _questions("queries and responses", instruction="query", output="response"),
    _questions("questions and answers", instruction="question", output="answer"),
    _questions("problems and solutions", instruction="problem", output="solution"),
    _questions("FLAN", instruction="inputs", output="targets"),
    _questions("inputs and outputs", instruction="input", output="output"),
)
"""From the most specific one to the least."""
CORPUS = tuple(
    _Layout(f"texts in '{name}'", frozenset([name]), f"column: {name}")
    for name in ("content", "body", "article", "story", "document", "raw_content", "passage")
)


def advice(names: Collection[str], required: Collection[str]) -> str:
    """How to load data whose records have these fields; empty if no known layout fits.

    Args:
        names: field names in the data.
        required: fields that are required, which distinguish a corpus from instructions.
    """
    section, layouts = ("corpus", CORPUS) if "text" in required else ("instructions", INSTRUCTIONS)
    for layout in layouts:
        if layout.fields <= {*names}:
            return (
                f"It looks like {layout.name}. Write into params.yaml:\n"
                f"    {section}:\n      {layout.line}"
            )
    return ""


def missing_columns(
    missing: Collection[str], paths: Mapping[str, str], columns: Collection[str]
) -> str:
    """The message that required fields are in no column of a table.

    Args:
        missing: the required fields that are missing.
        paths: path of each field in the data.
        columns: columns of the table.
    """
    wanted = " and ".join(
        f"'{paths[field]}'" + (f" for '{field}'" if paths[field] != field else "")
        for field in missing
    )
    hint = advice(columns, paths) or "Name the right one: column, or columns for instructions"
    return f"no column {wanted}, only {_listed(columns)}. {hint}"


def present_fields(names: Collection[str]) -> str:
    """The end of a message that fields are missing."""
    return f"The fields there are: {_listed(names)}"


def _listed(names: Collection[str]) -> str:
    shown = [name if name and name == name.strip() else repr(name) for name in names]
    return ", ".join([*shown[:SHOWN], *(["..."] if len(shown) > SHOWN else [])])
