"""Data sets with the layout of the Hugging Face hub, streamed by the ``datasets`` library."""

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Annotated, Any, Literal

from pydantic import Field
from tqdm import tqdm

from gpt2.core.errors import UserError
from gpt2.data.parsing.formats import LARGEST
from gpt2.data.parsing.layouts import missing_columns
from gpt2.data.parsing.limits import LimitedFile
from gpt2.data.parsing.rows import RawData, Row, UnreadableError
from gpt2.data.parsing.texts import text_rows
from gpt2.data.sources.row_params import CorpusRows, InstructionRows, RowParams

PACKAGE = "datasets==5.2.0"
"""Not in the requirements: only this source needs it."""


class HuggingfaceSource(RowParams):
    """One split of a data set. ``HF_ENDPOINT`` and ``HF_TOKEN`` are used."""

    source: Literal["huggingface"]
    dataset: Annotated[str, Field(min_length=1)]
    """Its id on the hub, ``tatsu-lab/alpaca``, or a directory on this machine."""
    config: str | None = None
    """Its subset, if it has several."""
    split: str = "train"
    revision: str | None = None
    """A commit, so that later runs get the same data; null: the newest one."""
    sampling: Literal["hash", "random", "first"] = "first"
    """As for other sources. ``hash`` and ``random`` read the whole split."""


class HuggingfaceCorpus(HuggingfaceSource, CorpusRows):
    """Documents of a data set."""


class HuggingfaceInstructions(HuggingfaceSource, InstructionRows):
    """Instruction records of a data set."""


def load_rows(params: HuggingfaceCorpus | HuggingfaceInstructions) -> RawData:
    """The rows of the split, streamed.

    Raises:
        UserError: the library is not installed, the hub cannot be reached, or it has no such data
            set, config, split or revision.
    """
    facts = params.model_dump(include={"dataset", "config", "split", "revision"})
    return RawData(params.dataset, _rows(params), {"raw": facts})


def _rows(params: HuggingfaceCorpus | HuggingfaceInstructions) -> Iterator[Row]:
    name = f"{params.dataset}:{params.split}"
    with _readable_errors(params.dataset) as load:
        stream = load(params)
        text_files = stream.info.builder_name == "text" and isinstance(params, CorpusRows)
        if text_files:  # else each line would be a document
            stream = load(params, sample_by="document")
        columns = stream.column_names  # unknown for some files until they are read
        if columns:
            stream = stream.select_columns(_wanted(columns, params))
        rows = tqdm(stream, desc=name, unit=" rows", delay=2, disable=None)
        for number, values in enumerate(rows, start=1):
            if not columns:
                columns = _wanted(values, params)
            row = Row(f"{name}:{number}", f"row {number}", values)
            if text_files and isinstance(params, CorpusRows):
                yield from _documents(row, values["text"], params.separator)
            else:
                yield row


def _documents(row: Row, text: str, separator: str) -> Iterator[Row]:
    """The documents in a text file, separated as in local files."""
    file = LimitedFile(BytesIO(text.encode()), LARGEST, LARGEST)
    try:
        for part in text_rows(row.name, file, separator):
            place = ", ".join(filter(None, [row.place, part.place]))
            yield part._replace(place=place)
    except UnreadableError as error:
        yield row._replace(value=None, problem=str(error))


@contextmanager
def _readable_errors(data_set: str) -> Iterator[Callable[..., Any]]:
    """Gives a function that opens a data set. Errors of opening and reading become `UserError`."""
    try:
        datasets = importlib.import_module("datasets")
        httpx = importlib.import_module("huggingface_hub.utils").httpx  # the one that it uses
        aiohttp = importlib.import_module("aiohttp")
    except ImportError as error:
        raise UserError(
            f"source: huggingface needs a package that is not installed ({error}). "
            f"Run: python -m pip install {PACKAGE}"
        ) from error
    failures = (
        *(OSError, ValueError, datasets.exceptions.DatasetsError),
        *(httpx.HTTPError, aiohttp.ClientError),
    )

    def load(params: HuggingfaceSource, **keys: str) -> Any:
        return datasets.load_dataset(
            params.dataset,
            params.config,
            split=params.split,
            revision=params.revision,
            streaming=True,
            **keys,
        )

    try:
        yield load
    except failures as error:
        raise UserError(
            f"{data_set}: {type(error).__name__}: {error}. Correct dataset, config, split or "
            "revision, or check the network"
        ) from error


def _wanted(
    columns: Collection[str], params: HuggingfaceCorpus | HuggingfaceInstructions
) -> list[str]:
    """The columns of the data set that are needed."""
    wanted = params.wanted
    if missing := wanted.missing(columns):
        raise UserError(f"{params.dataset}: {missing_columns(missing, wanted.paths, columns)}")
    return [column for column in columns if column in wanted.roots]
