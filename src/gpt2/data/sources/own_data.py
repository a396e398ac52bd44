"""A user's own data from any source: rows become documents or instruction records."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from random import Random
from typing import Annotated, NamedTuple

from pydantic import BaseModel, StringConstraints

from gpt2.data.parsing.fields import EMPTY_VALUES, document_fields, record_fields
from gpt2.data.parsing.row_checks import PROBLEMS_SHOWN, RowChecks
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.records import (
    Document,
    InstructionRecord,
    Split,
    SplitParams,
    normalised,
    sample_each,
    split_of,
)
from gpt2.data.sources.row_params import CorpusRows, InstructionRows, RowParams

NonEmpty = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text with more than white space."""

logger = logging.getLogger(__name__)


class OwnRecords(NamedTuple):
    """Instruction records, and what the metrics say about them."""

    records: list[InstructionRecord]
    facts: dict[str, int]


class _Text(BaseModel):
    name: str | None = None
    text: NonEmpty


class _Alpaca(BaseModel):
    instruction: NonEmpty
    input: str = ""
    output: NonEmpty
    kind: NonEmpty = "instruction"


def documents(data: RawData, params: CorpusRows) -> Iterator[Document]:
    """The documents that ``params`` ask for, one by one.

    After the last one, ``data.facts`` has the number of ``skipped`` rows, and the unused fields
    have been logged.

    Raises:
        UserError: after the last one: the list of bad rows, unless they are to be skipped and
            there are good ones.
    """
    wanted = params.wanted
    items = partial(document_fields, column=params.column, wanted=wanted, coerce=params.coerce)
    checks = RowChecks(_Text, data.origin, wanted, items, params.on_bad_record)
    separated: Counter[str] = Counter()
    for row in draw(data.rows, params):
        for item in checks.check(row):
            separated[row.separator] += 1
            text = _strip_lines(item.text) if params.lines == "strip" else item.text
            yield Document(item.name or row.name, text)
    data.facts["skipped"] = checks.finish()
    for separator, number in separated.items():
        if separator:
            logger.info(
                "%s: %s document(s) in text files, separated by %r (document_separator)",
                data.origin,
                f"{number:,}",
                separator,
            )


def instruction_records(data: RawData, params: InstructionRows) -> OwnRecords:
    """The records that ``params`` ask for, each with its split.

    Records that repeat another one are kept and logged: public data has some, and they only count
    twice. A skipped row keeps its position in the sample and in a split by position, so that the
    splits of the others do not depend on it. All replies of a conversation have the split of its
    first question.

    Raises:
        UserError: as `documents`.
    """
    wanted = params.wanted
    items = partial(record_fields, wanted=wanted, coerce=params.coerce)
    checks = RowChecks(_Alpaca, data.origin, wanted, items, params.on_bad_record)
    rows = list(draw(data.rows, params))
    found: list[InstructionRecord] = []
    repeats = _Repeats()
    emptied = 0
    for position, row in enumerate(rows):
        replies = checks.check(row)
        for number, item in enumerate(replies, start=1):
            if item.input.strip().lower() in EMPTY_VALUES:
                item.input = ""
                emptied += 1
            repeats.add(item, row)
            split = (
                split_of(_question(replies[0].instruction, replies[0].input), params)
                if params.split_by == "hash"
                else split_at(position, len(rows), params)
            )
            name = row.name if len(replies) == 1 else f"{row.name}.{number}"
            found.append(InstructionRecord(**item.model_dump(), split=split, name=name))
    skipped = checks.finish()
    shared = questions_in_two_splits(found)
    _log_findings(data.origin, repeats.found, emptied, shared)
    facts = {
        "skipped_records": skipped,
        "repeated_records": len(repeats.found),
        "emptied_inputs": emptied,
        "questions_in_two_splits": len(shared),
    }
    return OwnRecords(found, facts)


class _Repeats:
    """Finds records that are equal to an earlier one."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._first: dict[tuple[str, str, str], Row] = {}

    def add(self, item: _Alpaca, row: Row) -> None:
        same = self._first.setdefault((item.instruction, item.input, item.output), row)
        if same is not row:
            self.found.append(f"{row.place or row.name} repeats {same.place or same.name}")


def _log_findings(
    origin: str, repeats: Sequence[str], emptied: int, shared: Sequence[Sequence[str]]
) -> None:
    if repeats:
        logger.warning(
            "%s: %d record(s) repeat another\n  %s",
            origin,
            len(repeats),
            "\n  ".join(repeats[:PROBLEMS_SHOWN]),
        )
    if emptied:
        logger.info("%s: %d input(s) such as <noinput> or N/A taken as empty", origin, emptied)
    if shared:
        logger.warning(
            "%s: %d question(s) occur in more than one split, so the figures of the held-out "
            "records are better than they should be. split_by: hash keeps them together\n  %s",
            origin,
            len(shared),
            "\n  ".join(", ".join(names) for names in shared[:PROBLEMS_SHOWN]),
        )


def draw(rows: Iterable[Row], params: RowParams) -> Iterable[Row]:
    """At most ``params.limit`` rows. All rows or the first ones come one by one."""
    if params.sampling == "first" or params.limit is None:
        return islice(rows, params.limit)
    if params.sampling == "random":
        everything = list(rows)
        # The same as after `random.seed(seed)`, without changing the global generator.
        return Random(params.seed).sample(everything, min(params.limit, len(everything)))
    return sample_each(rows, params.limit, lambda row: repr(row.value), params.seed)


def split_at(position: int, total: int, params: SplitParams) -> Split:
    """The split of a record by its position, counted from 0, among ``total`` records.

    The tutorial's rule: the numbers of training and test records are rounded down; the rest is for
    validation.
    """
    train_fraction = round(1 - params.test_fraction - params.validation_fraction, 12)
    test_from = int(total * train_fraction)
    validation_from = test_from + int(total * params.test_fraction)
    if position < test_from:
        return "train"
    return "test" if position < validation_from else "validation"


def questions_in_two_splits(records: Iterable[InstructionRecord]) -> list[list[str]]:
    """Names of records with the same question (ignoring case and white space) but another split."""
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


def _strip_lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())
