"""Tables: CSV and TSV in the dialects of pandas and spreadsheets, and Parquet."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from itertools import chain, product
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from gpt2.core.params import Params
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.limits import LimitedFile
from gpt2.data.parsing.rows import EMPTY, Row, UnreadableError, decoded, numbered

DELIMITERS = (",", ";", "\t", "|")
QUOTES = ('"', "'")
PARQUET_ROWS = 1024
PARQUET_BUFFER = 2**20
"""Rows and bytes that are read at a time, for any size of the file's row groups."""
SHOWN = 80
"""Characters of the first line in a message."""
RAGGED = (
    "{} field(s), but the first line has {}. A text with a delimiter or a line end in it must be "
    """within quotation marks; if these are others than ", in params.yaml: csv: {{quote: "'"}}"""
)
QUOTES_WRONG = (
    ", so nothing after it is read. If quotation marks in the texts are neither doubled nor "
    r"escaped, in params.yaml: csv: {quote: none}; if they are escaped, csv: {escape: \}"
)
Character = Annotated[str, Field(pattern=r"^[^\r\n]$")]


class CsvParams(Params):
    """The dialect of CSV files, where the first line does not show it."""

    delimiter: Character | None = None
    """Character between two fields; null: the one of ``, ; tab |`` with which the first line has
    the needed fields."""
    quote: Literal['"', "'", "none"] | None = None
    """Character around fields that contain delimiters or line ends; null: the one in the first
    line, or ``"``; none: quotation marks are ordinary text."""
    escape: Character | None = None
    """Character before quotation marks and delimiters that are text, often a backslash."""
    header: bool = True
    """Whether the first line has the names of the fields; if not, they are ``"0"``, ``"1"``, ..."""

    @model_validator(mode="after")
    def _characters_differ(self) -> Self:
        stated = [it for it in (self.delimiter, self.quote, self.escape) if it is not None]
        if len({*stated}) < len(stated):
            raise ValueError("delimiter, quote and escape must be different characters")
        return self


class _Dialect(NamedTuple):
    delimiter: str
    quote: str | None
    escape: str | None

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The fields of each row."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            strict=True,
        )


def csv_rows(name: str, file: LimitedFile, params: CsvParams, wanted: Wanted) -> Iterator[Row]:
    """The rows of a CSV file, each a dictionary of texts by the names in the first line.

    A row with fewer or more fields than the first line has a problem instead of a value.
    """
    lines = _Lines(file)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise UnreadableError(EMPTY)
    csv.field_size_limit(max(csv.field_size_limit(), file.largest))
    dialect, columns = _dialect(first, params, wanted)
    records = _records(dialect, first, lines)
    if params.header:
        _, columns = next(records, (1, columns))
        _check_header(columns)
    if wanted.missing(columns) and first.lstrip().startswith(("{", "[")):
        raise UnreadableError("JSON, not CSV. Rename it, or in params.yaml: format: json")
    wanted.check(columns)
    number = 0
    for number, (line, fields) in enumerate(records, start=1):
        row = Row(f"{name}:{number}", f"row {number} (line {line})", None)
        if len(fields) == len(columns):
            yield row._replace(value=dict(zip(columns, fields, strict=True)))
        else:
            yield row._replace(problem=RAGGED.format(len(fields), len(columns)))
    if not number:
        raise UnreadableError("names of columns, but no rows. Give it some, or name another file")


class _Lines:
    """The lines of a file as text, with their line ends, also those of old Macs."""

    def __init__(self, file: LimitedFile) -> None:
        self._file = file
        self.number = 0
        """Number of the current line, from 1."""
        self.size = 0
        """Bytes since the last reset: a quotation mark that is never closed reads to the end."""
        self._ready: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._ready:
            content = self._file.line()
            if not content:
                raise StopIteration
            self.size += len(content)
            self._file.check_size(self.size)
            try:
                text = decoded(content)
            except UnreadableError as error:
                raise UnreadableError(f"line {self.number + 1}: {error}") from error
            # Not `splitlines`, which also splits at characters that a text may contain (U+2028).
            self._ready = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)[::-1]
        self.number += 1
        return self._ready.pop()


def _records(dialect: _Dialect, first: str, lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row that is not blank, with the number of its first line."""
    begin = lines.number
    rows = dialect.rows(chain([first], lines))
    try:
        for fields in rows:
            if fields:
                yield begin, fields
            begin, lines.size = lines.number + 1, 0
    except csv.Error as error:
        raise UnreadableError(
            f"line {lines.number}: not valid CSV ({error}){QUOTES_WRONG}"
        ) from error


def _dialect(line: str, params: CsvParams, wanted: Wanted) -> tuple[_Dialect, list[str]]:
    """The dialect of the file and its column names or numbers, from the first line."""
    if params.quote == "none":
        quotes: Sequence[str | None] = [None]
    else:
        quotes = [params.quote] if params.quote else QUOTES
    delimiters = [params.delimiter] if params.delimiter else DELIMITERS
    found: dict[_Dialect, list[str]] = {}
    for delimiter, quote in product(delimiters, quotes):
        dialect = _Dialect(delimiter, quote, params.escape)
        try:
            fields = next(dialect.rows([line]), [])
        except csv.Error:
            continue
        found[dialect] = fields
    fitting = (
        {it: fields for it, fields in found.items() if not wanted.missing(_names(fields, params))}
        or {it: fields for it, fields in found.items() if len(fields) > 1}
        or found
        or {_Dialect(delimiters[0], quotes[0], params.escape): []}
    )
    dialect, fields = _only(fitting, line)
    return dialect, _names(fields, params)


def _names(fields: list[str], params: CsvParams) -> list[str]:
    """Names of the columns, or their numbers if there is no header."""
    return fields if params.header else [str(number) for number in range(len(fields))]


def _only(fitting: Mapping[_Dialect, list[str]], line: str) -> tuple[_Dialect, list[str]]:
    """The one dialect, or the first of several that give the same fields in the first line."""
    dialect, first = next(iter(fitting.items()))
    of_this_quote = {it: fields for it, fields in fitting.items() if it.quote == dialect.quote}
    if any(fields != first for fields in of_this_quote.values()):
        choices = " or ".join(repr(dialect.delimiter) for dialect in of_this_quote)
        raise UnreadableError(
            f"line 1: {line.strip()[:SHOWN]!r} may be delimited by {choices}. "
            f'Choose one in params.yaml: csv: {{delimiter: "{dialect.delimiter}"}}'
        )
    return dialect, first


def _check_header(columns: Sequence[str]) -> None:
    named = [name for name in columns if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UnreadableError(
            f"line 1: several columns are called {', '.join(map(repr, twice))}. Rename all but one"
        )


def parquet_rows(name: str, file: BufferedIOBase, wanted: Wanted) -> Iterator[Row]:
    """The rows of a Parquet file, each a dictionary of the needed columns."""
    return numbered(name, "row", _parquet(file, wanted))


def _parquet(file: BufferedIOBase, wanted: Wanted) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(
            pa.PythonFile(file, "r"), buffer_size=PARQUET_BUFFER, pre_buffer=False
        )
        names = table.schema_arrow.names
        wanted.check(names)
        chosen = [name for name in names if name in wanted.roots]
        for batch in table.iter_batches(PARQUET_ROWS, columns=chosen, use_threads=False):
            yield from batch.to_pylist()
    # ValueError: text that is not UTF-8, an invalid date.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UnreadableError(f"not a valid Parquet file ({error})") from error
