"""Your own files: text to pretrain on, and instructions in Alpaca's fields."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from gpt2.errors import UserError
from gpt2.params import Params
from gpt2.sources.records import Document, InstructionRecord, SplitParams, normalised, split_of

PROBLEMS_SHOWN = 20
Filled = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is more than white space."""


class FileCorpus(Params):
    """A text file, one document; or with ``.jsonl`` or ``.json`` objects with a ``text`` each."""

    source: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """A relative one counts from the repository's root."""


class FileInstructions(SplitParams):
    """Records with ``instruction``, ``output`` and, if wanted, ``input`` and ``kind``.

    A JSON list or JSON Lines. Records with the same question fall into the same split.
    """

    source: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """A relative one counts from the repository's root."""


class _Text(BaseModel):
    name: str | None = None
    text: Filled


class _Alpaca(BaseModel):
    instruction: Filled
    input: str = ""
    output: Filled
    kind: Filled = "instruction"


Schema = TypeVar("Schema", bound=BaseModel)


def read_documents(path: Path) -> list[Document]:
    """The documents of a corpus file.

    Raises:
        UserError: no such file, not UTF-8, empty, or (of JSON) the list of all that is wrong.
    """
    if path.suffix not in (".jsonl", ".json"):
        return [Document(path.name, _text(path))]
    return [
        Document(item.name or f"{path.name}:{number}", item.text)
        for number, item in _records(path, _Text)
    ]


def read_instructions(path: Path, params: FileInstructions) -> list[InstructionRecord]:
    """The records of an instruction file, each with its split.

    Raises:
        UserError: as `read_documents`.
    """
    return [
        InstructionRecord(
            **item.model_dump(),
            split=split_of(normalised(f"{item.instruction} {item.input}"), params),
            name=f"{path.name}:{number}",
        )
        for number, item in _records(path, _Alpaca)
    ]


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # without the byte order mark of some editors
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Correct the path in the parameters") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with iconv"
        ) from error
    if not text.strip():
        raise UserError(f"{path}: empty. Give it text, or name another file in the parameters")
    return text


def _records(path: Path, schema: type[Schema]) -> list[tuple[int, Schema]]:
    """All records with their numbers: positions in a JSON list, or lines, counted from 1."""
    good: list[tuple[int, Schema]] = []
    problems: list[str] = []
    for where, number, value in _values(path, _text(path)):
        try:
            record = json.loads(value) if where == "line" else value
            good.append((number, schema.model_validate(record)))
        except json.JSONDecodeError as error:
            problems.append(f"{where} {number}: not valid JSON ({error.msg}, column {error.colno})")
        except ValidationError as error:
            problems += [f"{where} {number}: {_describe(problem)}" for problem in error.errors()]
    if problems:
        shown = problems[:PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown):,} more")
        raise UserError("\n  ".join([f"{path}: {len(problems):,} problem(s)", *shown]))
    return good


def _values(path: Path, text: str) -> Iterator[tuple[str, int, Any]]:
    """("record", number, value) of a JSON list, or ("line", number, text) of JSON Lines."""
    if not text.lstrip().startswith("["):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield "line", number, line
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not values:
        raise UserError(f"{path}: an empty list. Give it records, or name another file")
    for number, value in enumerate(values, start=1):
        yield "record", number, value


def _describe(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "string_pattern_mismatch":
        return f"'{key}' is empty"
    return f"'{key}': {problem['msg']}" if key else str(problem["msg"])
