"""A user's own data, wherever it comes from: rows become documents or instruction records."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from gpt2.errors import UserError
from gpt2.params import Fraction, NonNegative, Params, Positive
from gpt2.sources.formats import Format, RawData, Row
from gpt2.sources.records import (
    Document,
    InstructionRecord,
    Split,
    SplitParams,
    normalised,
    sample,
    split_of,
)

PROBLEMS_SHOWN = 20
Filled = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is more than white space."""
Name = Annotated[str, Field(min_length=1)]

logger = logging.getLogger(__name__)


class RowParams(Params):
    """Which rows are taken. They are drawn before they are checked: others may be anything."""

    limit: Positive | None = None
    """Take at most so many; null takes all, in their order."""
    sampling: Literal["hash", "random", "first"] = "hash"
    """Which ones: drawn by the hash of their content, in their order; by ``random.sample``, in the
    order in which it draws them; or the first ones, and no more is read."""
    seed: NonNegative = 123
    """Decides what is drawn, and for instructions what is held out."""
    on_bad_record: Literal["error", "skip"] = "error"
    """A row that is no document or record ends the stage, or is left out and counted."""


class OwnCorpus(RowParams):
    """Each row is a document: a whole text file, or a record with a text and, if wanted, a name."""

    otherwise: ClassVar[Format] = "text"
    required: ClassVar = ("text",)

    column: Name = "text"
    """The field of a record that holds the text."""
    lines: Literal["keep", "strip"] = "keep"
    """Texts as they are; or, as in the tutorial, without empty lines and without the white space
    around the others, joined by line feeds."""

    @property
    def column_of(self) -> dict[str, str]:
        """Where in the data each of our fields stands."""
        return {"name": "name", "text": self.column}


class OwnInstructions(RowParams, SplitParams):
    """Each row is a record with ``instruction``, ``output`` and, if wanted, ``input``, ``kind``."""

    otherwise: ClassVar[Format] = "json"
    required: ClassVar = ("instruction", "output")

    columns: dict[Literal["instruction", "input", "output", "kind"], Name] = Field({})
    """Other names of these fields in the data: ``{instruction: prompt, output: response}``."""
    split_by: Literal["hash", "position"] = "hash"
    """Which records are held out: drawn by the hash of the question, so that equal questions share
    a split whatever stands around them; or, as in the tutorial, by position: first those to train
    on, then those to test with, at the end those to validate with."""
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1

    @property
    def column_of(self) -> dict[str, str]:
        """Where in the data each of our fields stands."""
        names = ("instruction", "input", "output", "kind")
        return {name: name for name in names} | {str(key): at for key, at in self.columns.items()}


class OwnDocuments(NamedTuple):
    """The documents of a corpus, and how many rows were skipped."""

    documents: list[Document]
    skipped: int


class OwnRecords(NamedTuple):
    """Instruction records, and what the metrics say about them."""

    records: list[InstructionRecord]
    facts: dict[str, int]


class _Text(BaseModel):
    name: str | None = None
    text: Filled


class _Alpaca(BaseModel):
    instruction: Filled
    input: str = ""
    output: Filled
    kind: Filled = "instruction"


Schema = TypeVar("Schema", bound=BaseModel)


def documents(data: RawData, params: OwnCorpus) -> OwnDocuments:
    """The documents that ``params`` ask for.

    Raises:
        UserError: the list of all rows that are none, unless they are to be skipped and others
            are left.
    """
    found = []
    rows = draw(data.rows, params)
    for row, item in zip(rows, _checked(rows, _Text, params, data.origin), strict=True):
        if item is not None:
            text = _without_empty_lines(item.text) if params.lines == "strip" else item.text
            found.append(Document(item.name or row.name, text))
    return OwnDocuments(found, len(rows) - len(found))


def instruction_records(data: RawData, params: OwnInstructions) -> OwnRecords:
    """The records that ``params`` ask for, each with its split.

    A row that is skipped keeps its place in the draw and in a split by position, so that the splits
    of the others do not depend on it.

    Raises:
        UserError: as `documents`.
    """
    found = []
    rows = draw(data.rows, params)
    for position, item in enumerate(_checked(rows, _Alpaca, params, data.origin)):
        if item is not None:
            split = (
                split_of(_question(item.instruction, item.input), params)
                if params.split_by == "hash"
                else split_at(position, len(rows), params)
            )
            record = InstructionRecord(**item.model_dump(), split=split, name=rows[position].name)
            found.append(record)
    shared = questions_in_two_splits(found)
    if shared:
        logger.warning(
            "%s: %d question(s) occur in more than one split, so the figures of the held-out "
            "records are better than they should be. split_by: hash keeps them together",
            data.origin,
            shared,
        )
    facts = {"skipped_records": len(rows) - len(found), "questions_in_two_splits": shared}
    return OwnRecords(found, facts)


def draw(rows: Iterable[Row], params: RowParams) -> list[Row]:
    """At most ``params.limit`` rows."""
    if params.sampling == "first" or params.limit is None:
        return list(islice(rows, params.limit))
    everything = list(rows)
    if params.sampling == "random":
        # As after `random.seed(seed)`, but no one else's random numbers are touched.
        return Random(params.seed).sample(everything, min(params.limit, len(everything)))
    return sample(everything, params.limit, lambda row: repr(row.value), params.seed)


def split_at(position: int, total: int, params: SplitParams) -> Split:
    """The split of one of ``total`` records by its position, counted from 0.

    The tutorial's rule: the counts for training and test are rounded down, the rest validates.
    """
    train_fraction = round(1 - params.test_fraction - params.validation_fraction, 12)
    test_from = int(total * train_fraction)
    validation_from = test_from + int(total * params.test_fraction)
    if position < test_from:
        return "train"
    return "test" if position < validation_from else "validation"


def questions_in_two_splits(records: Iterable[InstructionRecord]) -> int:
    """How many questions, case and white space aside, occur in more than one split."""
    splits = defaultdict(set)
    for record in records:
        splits[_question(record.instruction, record.input)].add(record.split)
    return sum(len(found) > 1 for found in splits.values())


def _question(instruction: str, input: str) -> str:
    return normalised(f"{instruction} {input}")


def _without_empty_lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def _checked(
    rows: Sequence[Row],
    schema: type[Schema],
    params: OwnCorpus | OwnInstructions,
    origin: str,
) -> list[Schema | None]:
    """Each row as ``schema``, None for one that is skipped."""
    checked: list[Schema | None] = []
    problems: list[str] = []
    for row in rows:
        item, wrong = _check(row, schema, params.column_of)
        checked.append(item)
        problems += [f"{row.place}: {problem}" if row.place else problem for problem in wrong]
    good = sum(item is not None for item in checked)
    if not rows:
        raise UserError(f"{origin}: no records in it")
    if problems and (params.on_bad_record == "error" or not good):
        raise UserError(_listed(origin, problems, alone=not rows[0].place))
    if problems:
        skipped = f"{origin}: {len(rows) - good:,} of {len(rows):,} records skipped"
        logger.warning("%s", _listed(skipped, problems))
    return checked


def _check(
    row: Row, schema: type[Schema], columns: dict[str, str]
) -> tuple[Schema | None, list[str]]:
    """A row as ``schema``, or all that is wrong with it."""
    if row.problem:
        return None, [row.problem]
    value: Any = row.value
    if isinstance(value, str):
        value = {columns["text"]: value} if "text" in columns else value
    if isinstance(value, dict):
        value = {field: value[at] for field, at in columns.items() if at in value}
    try:
        return schema.model_validate(value), []
    except ValidationError as error:
        return None, [_describe(problem, columns) for problem in error.errors()]


def _describe(problem: Any, columns: dict[str, str]) -> str:
    key = ".".join(columns.get(part, str(part)) for part in problem["loc"])
    if problem["type"] == "string_pattern_mismatch":
        return f"'{key}' is empty"
    return f"'{key}': {problem['msg']}" if key else str(problem["msg"])


def _listed(heading: str, problems: Sequence[str], alone: bool = False) -> str:
    """The heading and the first problems; on one line if the problem is the whole file's."""
    if alone and len(problems) == 1:
        return f"{heading}: {problems[0]}"
    shown = list(problems[:PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown):,} more")
    return "\n  ".join([f"{heading}: {len(problems):,} problem(s)", *shown])
