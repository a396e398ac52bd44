"""Parameters of a user's own data that are the same for all sources: which rows, which fields."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt2.core.params import Fraction, NonNegative, Params, Positive
from gpt2.data.parsing.field_paths import FieldPath
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import FormatParams, Reader
from gpt2.data.parsing.texts import NO_SEPARATOR
from gpt2.data.records import SplitParams
from gpt2.data.tokenizer.files import END_OF_TEXT

Column = Literal["instruction", "input", "output", "kind", "system", "conversation"]


class RowParams(Params):
    """Which rows are used. They are sampled before they are checked."""

    limit: Positive | None = None
    """Largest number of rows; null: all, in their order."""
    sampling: Literal["hash", "random", "first"] = "hash"
    """How ``limit`` rows are chosen. hash: by the hash of their content, in their order. random:
    by ``random.sample``, in the order in which it draws them; all rows must fit into memory.
    first: the first ones; the rest is not read."""
    seed: NonNegative = 123
    """Seed of the sample and, for instructions, of the split."""
    on_bad_record: Literal["error", "skip"] = "error"
    """A row that is not a document or record ends the stage, or is skipped and counted."""
    coerce: bool = False
    """Convert numbers, booleans and dates to text, as JSON writes them, and lists to one line per
    item. Without it a row with such a field is bad. CSV holds only text."""


class CorpusRows(RowParams):
    """Each row is a document: a whole text file, or a record with a text and optionally a name."""

    column: FieldPath = "text"
    """The field that holds the text, or the path to it: ``meta.body``."""
    document_separator: Annotated[str, Field(min_length=1)] | None = END_OF_TEXT
    """What separates the documents in a text file: a string; ``blank-lines``; null or ``none``:
    each file is one document. Records are documents as they are."""
    lines: Literal["keep", "strip"] = "keep"
    """keep: texts are not changed. strip: as in the tutorial, empty lines and the white space
    around lines are removed, and lines are joined by line feeds."""

    @property
    def paths(self) -> dict[str, str]:
        """Path of each field in the data."""
        return {"name": "name", "text": self.column}

    @property
    def wanted(self) -> Wanted:
        """The fields that are parsed."""
        return Wanted(self.paths, ("text",))

    @property
    def separator(self) -> str:
        """The argument ``separator`` of `text_rows`."""
        return self.document_separator or NO_SEPARATOR


class CorpusFiles(FormatParams, CorpusRows):
    """Documents in files."""

    def reader(self) -> Reader:
        """Parses the files."""
        return Reader(self.wanted, "text", self.format, self.csv, self.separator)


class InstructionRows(RowParams, SplitParams):
    """Each row is a record with ``instruction``, ``output`` and optionally ``input``, ``kind``."""

    columns: dict[Column, FieldPath] = Field({})
    """Other names of these fields in the data, or paths to them: ``{instruction: prompt, output:
    answers[0].text}``. ``system`` is a text that precedes the instruction. ``conversation`` stands
    for instruction, input and output: a list of turns, each reply of which becomes a record."""
    split_by: Literal["hash", "position"] = "hash"
    """Which records are held out. hash: by the hash of the question, so that equal questions have
    the same split. position: as in the tutorial, the first records are for training, then come
    those for testing, and the last are for validation."""
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1

    @property
    def paths(self) -> dict[str, str]:
        """Path of each field in the data."""
        other: dict[str, str] = {str(field): path for field, path in self.columns.items()}
        optional = ("kind",) if "conversation" in other else ("input", "kind")
        # A column that is read as another field is not read under its own name as well.
        unclaimed = (name for name in optional if name not in other.values())
        return {name: name for name in (*self._required, *unclaimed)} | other

    @property
    def _required(self) -> tuple[str, ...]:
        return ("conversation",) if "conversation" in self.columns else ("instruction", "output")

    @property
    def wanted(self) -> Wanted:
        """The fields that are parsed."""
        return Wanted(self.paths, self._required)

    @model_validator(mode="after")
    def _read_every_field_from_one_place(self) -> Self:
        if "conversation" in self.columns and {*self.columns} & {"instruction", "input", "output"}:
            raise ValueError("a conversation holds instruction, input and output: name it alone")
        return self


class InstructionFiles(FormatParams, InstructionRows):
    """Instruction records in files."""

    def reader(self) -> Reader:
        """Parses the files."""
        return Reader(self.wanted, "json", self.format, self.csv)
