"""A user's own data, wherever it comes from: rows become documents or instruction records."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from random import Random
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from gpt2.core.params import Fraction, NonNegative, Params, Positive
from gpt2.data.parsing.field_paths import FieldPath
from gpt2.data.parsing.fields import NOTHING, Wanted, document_fields, record_fields
from gpt2.data.parsing.formats import FormatParams, Reader
from gpt2.data.parsing.row_checks import PROBLEMS_SHOWN, RowChecks
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.parsing.texts import NONE
from gpt2.data.sources.records import (
    Document,
    InstructionRecord,
    Split,
    SplitParams,
    normalised,
    sample_each,
    split_of,
)
from gpt2.data.tokenizer.files import END_OF_TEXT

Column = Literal["instruction", "input", "output", "kind", "system", "conversation"]
Filled = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is more than white space."""

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
    coerce: bool = False
    """Numbers, booleans and dates in our fields become text, as JSON writes them, and lists a line
    for each item. Without it they make a row a bad one; CSV holds nothing but text."""


class OwnCorpus(RowParams):
    """Each row is a document: a whole text file, or a record with a text and, if wanted, a name."""

    column: FieldPath = "text"
    """The field of a record that holds the text, or the way to it: ``meta.body``."""
    document_separator: Annotated[str, Field(min_length=1)] | None = END_OF_TEXT
    """What stands between the documents of a file of text: a string; ``blank-lines``; null or
    ``none``: each file is one document. Records are documents as they are."""
    lines: Literal["keep", "strip"] = "keep"
    """Texts as they are; or, as in the tutorial, without empty lines and without the white space
    around the others, joined by line feeds."""

    @property
    def column_of(self) -> dict[str, str]:
        """Where in the data each of our fields stands."""
        return {"name": "name", "text": self.column}

    @property
    def wanted(self) -> Wanted:
        """The fields that are read."""
        return Wanted(self.column_of, ("text",))

    @property
    def separator(self) -> str:
        """As `text_rows` takes it."""
        return self.document_separator or NONE


class CorpusFiles(FormatParams, OwnCorpus):
    """Documents out of files that we read ourselves."""

    def reader(self) -> Reader:
        """What reads them."""
        return Reader(self.wanted, "text", self.format, self.csv, self.separator)


class OwnInstructions(RowParams, SplitParams):
    """Each row is a record with ``instruction``, ``output`` and, if wanted, ``input``, ``kind``."""

    columns: dict[Column, FieldPath] = Field({})
    """Other names of these fields in the data, or the ways to them: ``{instruction: prompt, output:
    answers[0].text}``. ``system`` is a text that goes before the instruction; ``conversation``
    stands for instruction, input and output: a list of turns, each reply of which is a record."""
    split_by: Literal["hash", "position"] = "hash"
    """Which records are held out: drawn by the hash of the question, so that equal questions share
    a split whatever stands around them; or, as in the tutorial, by position: first those to train
    on, then those to test with, at the end those to validate with."""
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1

    @property
    def column_of(self) -> dict[str, str]:
        """Where in the data each of our fields stands."""
        other: dict[str, str] = {str(field): path for field, path in self.columns.items()}
        optional = ("kind",) if "conversation" in other else ("input", "kind")
        # What another field is read from is not read for its own name as well.
        unclaimed = (name for name in optional if name not in other.values())
        return {name: name for name in (*self._required, *unclaimed)} | other

    @property
    def _required(self) -> tuple[str, ...]:
        return ("conversation",) if "conversation" in self.columns else ("instruction", "output")

    @property
    def wanted(self) -> Wanted:
        """The fields that are read."""
        return Wanted(self.column_of, self._required)

    @model_validator(mode="after")
    def _read_every_field_from_one_place(self) -> Self:
        if "conversation" in self.columns and {*self.columns} & {"instruction", "input", "output"}:
            raise ValueError("a conversation holds instruction, input and output: name it alone")
        return self


class InstructionFiles(FormatParams, OwnInstructions):
    """Instruction records out of files that we read ourselves."""

    def reader(self) -> Reader:
        """What reads them."""
        return Reader(self.wanted, "json", self.format, self.csv)


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


def documents(data: RawData, params: OwnCorpus) -> Iterator[Document]:
    """The documents that ``params`` ask for, as they are read.

    After the last one ``data.facts`` say how many rows were ``skipped``, and the log, which fields
    no one asked for.

    Raises:
        UserError: after the last one: the list of all rows that are none, unless they are to be
            skipped and others are left.
    """
    wanted = params.wanted
    items = partial(document_fields, column=params.column, wanted=wanted, coerce=params.coerce)
    checks = RowChecks(_Text, data.origin, wanted, items, params.on_bad_record)
    divided: Counter[str] = Counter()
    for row in draw(data.rows, params):
        for item in checks.of(row):
            divided[row.divided_at] += 1
            text = _without_empty_lines(item.text) if params.lines == "strip" else item.text
            yield Document(item.name or row.name, text)
    data.facts["skipped"] = checks.skipped()
    for separator, number in divided.items():
        if separator:
            logger.info(
                "%s: %s document(s) in files of text, divided at %r (document_separator)",
                data.origin,
                f"{number:,}",
                separator,
            )


def instruction_records(data: RawData, params: OwnInstructions) -> OwnRecords:
    """The records that ``params`` ask for, each with its split.

    A record that repeats another, word for word, is kept, and told: public data has some, and they
    only weigh twice. A row that is skipped keeps its place in the draw and in a split by position,
    so that the splits of the others do not depend on it. All replies of a conversation share the
    split of its first question.

    Raises:
        UserError: as `documents`.
    """
    found = []
    wanted = params.wanted
    items = partial(record_fields, wanted=wanted, coerce=params.coerce)
    checks = RowChecks(_Alpaca, data.origin, wanted, items, params.on_bad_record)
    rows = list(draw(data.rows, params))
    first: dict[tuple[str, str, str], Row] = {}
    repeats: list[str] = []
    emptied = 0
    for position, row in enumerate(rows):
        replies = checks.of(row)
        for number, item in enumerate(replies, start=1):
            if item.input.strip().lower() in NOTHING:
                item.input = ""
                emptied += 1
            same = first.setdefault((item.instruction, item.input, item.output), row)
            if same is not row:
                repeats.append(f"{row.place or row.name} repeats {same.place or same.name}")
            split = (
                split_of(_question(replies[0].instruction, replies[0].input), params)
                if params.split_by == "hash"
                else split_at(position, len(rows), params)
            )
            name = row.name if len(replies) == 1 else f"{row.name}.{number}"
            found.append(InstructionRecord(**item.model_dump(), split=split, name=name))
    skipped = checks.skipped()
    if repeats:
        logger.warning(
            "%s: %d record(s) repeat another\n  %s",
            data.origin,
            len(repeats),
            "\n  ".join(repeats[:PROBLEMS_SHOWN]),
        )
    if emptied:
        logger.info("%s: %d input(s) such as <noinput> or N/A taken as empty", data.origin, emptied)
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
        "emptied_inputs": emptied,
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
