"""A user's own data, wherever it comes from: rows become documents or instruction records."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

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
    sample_each,
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
    order in which it draws them, for which all rows must fit into memory; or the first ones, and no
    more is read."""
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


def documents(data: RawData, params: OwnCorpus) -> Iterator[Document]:
    """The documents that ``params`` ask for, as they are read.

    After the last one ``data.facts`` say how many rows were ``skipped``, and the log, which fields
    no one asked for.

    Raises:
        UserError: after the last one: the list of all rows that are none, unless they are to be
            skipped and others are left.
    """
    checks = _Checks(_Text, data.origin, params)
    for row in draw(data.rows, params):
        item = checks.of(row)
        if item is not None:
            text = _without_empty_lines(item.text) if params.lines == "strip" else item.text
            yield Document(item.name or row.name, text)
    data.facts["skipped"] = checks.skipped()


def instruction_records(data: RawData, params: OwnInstructions) -> OwnRecords:
    """The records that ``params`` ask for, each with its split.

    A record that repeats another, word for word, is kept, and told: public data has some, and they
    only weigh twice. A row that is skipped keeps its place in the draw and in a split by position,
    so that the splits of the others do not depend on it.

    Raises:
        UserError: as `documents`.
    """
    found = []
    checks = _Checks(_Alpaca, data.origin, params)
    rows = list(draw(data.rows, params))
    first: dict[tuple[str, str, str], Row] = {}
    repeats: list[str] = []
    for position, row in enumerate(rows):
        item = checks.of(row)
        if item is None:
            continue
        same = first.setdefault((item.instruction, item.input, item.output), row)
        if same is not row:
            repeats.append(f"{row.place or row.name} repeats {same.place or same.name}")
        split = (
            split_of(_question(item.instruction, item.input), params)
            if params.split_by == "hash"
            else split_at(position, len(rows), params)
        )
        found.append(InstructionRecord(**item.model_dump(), split=split, name=row.name))
    skipped = checks.skipped()
    if repeats:
        logger.warning(
            "%s: %d record(s) repeat another\n  %s",
            data.origin,
            len(repeats),
            "\n  ".join(repeats[:PROBLEMS_SHOWN]),
        )
    shared = questions_in_two_splits(found)
    if shared:
        logger.warning(
            "%s: %d question(s) occur in more than one split, so the figures of the held-out "
            "records are better than they should be. split_by: hash keeps them together\n  %s",
            data.origin,
            len(shared),
            "\n  ".join(", ".join(names) for names in shared[:PROBLEMS_SHOWN]),
        )
    facts = {
        "skipped_records": skipped,
        "repeated_records": len(repeats),
        "questions_in_two_splits": len(shared),
    }
    return OwnRecords(found, facts)


def draw(rows: Iterable[Row], params: RowParams) -> Iterable[Row]:
    """At most ``params.limit`` rows, one by one if these are the first or all."""
    if params.sampling == "first" or params.limit is None:
        return islice(rows, params.limit)
    if params.sampling == "random":
        everything = list(rows)
        # As after `random.seed(seed)`, but no one else's random numbers are touched.
        return Random(params.seed).sample(everything, min(params.limit, len(everything)))
    return sample_each(rows, params.limit, lambda row: repr(row.value), params.seed)


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


def questions_in_two_splits(records: Iterable[InstructionRecord]) -> list[list[str]]:
    """Names of records that ask the same, case and white space aside, in more than one split."""
    asking: dict[str, list[InstructionRecord]] = defaultdict(list)
    for record in records:
        asking[_question(record.instruction, record.input)].append(record)
    return [
        [record.name for record in same]
        for same in asking.values()
        if len({record.split for record in same}) > 1
    ]


def _question(instruction: str, input: str) -> str:
    return normalised(f"{instruction} {input}")


def _without_empty_lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


class _Checks(Generic[Schema]):
    """Rows made ``schema`` one by one, and a list of what was wrong, of which the end is not kept.

    Args:
        schema: what a row is to be.
        origin: leads the messages.
        params: say whether a bad row is an error.
    """

    def __init__(
        self, schema: type[Schema], origin: str, params: OwnCorpus | OwnInstructions
    ) -> None:
        self._schema, self._origin, self._params = schema, origin, params
        self._rows = self._bad = self._problems = 0
        self._shown: list[str] = []
        self._unused: set[str] = set()
        self._alone = False

    def of(self, row: Row) -> Schema | None:
        """The row as ``schema``; None if it is bad."""
        item, wrong = _check(row, self._schema, self._params.column_of)
        self._alone |= not self._rows and not row.place
        self._rows += 1
        if isinstance(row.value, dict) and len(self._unused) < PROBLEMS_SHOWN:
            self._unused |= row.value.keys() - self._params.column_of.values()
        if wrong:
            self.refuse(row, *wrong)
        return item

    def refuse(self, row: Row, *wrong: str) -> None:
        """Count the row as bad, and tell what is wrong with it."""
        self._bad += 1
        self._problems += len(wrong)
        for problem in wrong[: PROBLEMS_SHOWN - len(self._shown)]:
            self._shown.append(f"{row.place}: {problem}" if row.place else problem)

    def skipped(self) -> int:
        """How many rows were bad, now that all have been checked.

        Raises:
            UserError: there were some, and they are an error; or there was no good one.
        """
        bad = self._bad
        if not self._rows:
            raise UserError(f"{self._origin}: no records in it")
        if bad and (self._params.on_bad_record == "error" or bad == self._rows):
            raise UserError(self._listed(self._origin))
        if bad:
            heading = f"{self._origin}: {bad:,} of {self._rows:,} records skipped"
            logger.warning("%s", self._listed(heading))
        if self._unused:
            names = ", ".join(map(repr, sorted(self._unused)[:PROBLEMS_SHOWN]))
            logger.info("%s: not read: %s", self._origin, names)
        return bad

    def _listed(self, heading: str) -> str:
        """The heading and the first problems; on one line if the problem is the whole file's."""
        if self._alone and self._problems == 1:
            return f"{heading}: {self._shown[0]}"
        more = self._problems - len(self._shown)
        end = [f"and {more:,} more"] if more else []
        return "\n  ".join([f"{heading}: {self._problems:,} problem(s)", *self._shown, *end])


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
