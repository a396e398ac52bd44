"""Data sets in the layout of the Hugging Face hub, streamed by the ``datasets`` library."""

import importlib
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from tqdm import tqdm

from gpt2.errors import UserError
from gpt2.sources.layouts import missing_columns
from gpt2.sources.own_data import OwnCorpus, OwnInstructions, RowParams
from gpt2.sources.rows import RawData, Row

PACKAGE = "datasets==5.2.0"
"""Not among our requirements: only this source needs it."""


class HuggingfaceSource(RowParams):
    """One split of a data set; ``HF_ENDPOINT`` and ``HF_TOKEN`` are honoured."""

    source: Literal["huggingface"]
    dataset: Annotated[str, Field(min_length=1)]
    """Its id on the hub, ``tatsu-lab/alpaca``, or a directory on this machine."""
    config: str | None = None
    """Its subset, if it has several."""
    split: str = "train"
    revision: str | None = None
    """A commit, so that later runs get the same data; null is the newest one."""
    sampling: Literal["hash", "random", "first"] = "first"
    """As elsewhere; but ``hash`` and ``random`` read the whole split."""


class HuggingfaceCorpus(HuggingfaceSource, OwnCorpus):
    """Documents out of a data set."""


class HuggingfaceInstructions(HuggingfaceSource, OwnInstructions):
    """Instruction records out of a data set."""


def read(params: HuggingfaceCorpus | HuggingfaceInstructions) -> RawData:
    """The rows of the split, read as they are asked for.

    Raises:
        UserError: the library is not installed, the hub cannot be reached, or it has no such data
            set, config, split or revision.
    """
    facts = params.model_dump(include={"dataset", "config", "split", "revision"})
    return RawData(params.dataset, _rows(params), {"raw": facts})


def _rows(params: HuggingfaceCorpus | HuggingfaceInstructions) -> Iterator[Row]:
    name = f"{params.dataset}:{params.split}"
    rows = tqdm(_stream(params), desc=name, unit=" rows", delay=2, disable=None)
    for number, values in enumerate(rows, start=1):
        yield Row(f"{name}:{number}", f"row {number}", values)


def _stream(params: HuggingfaceCorpus | HuggingfaceInstructions) -> Iterator[dict[str, Any]]:
    try:
        datasets = importlib.import_module("datasets")
        httpx = importlib.import_module("huggingface_hub.utils").httpx  # the one that it runs on
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
    try:
        stream = datasets.load_dataset(
            params.dataset,
            params.config,
            split=params.split,
            revision=params.revision,
            streaming=True,
        )
        if columns := stream.column_names:  # unknown for some files until they are read
            stream = stream.select_columns(_wanted(columns, params))
        yield from stream
    except failures as error:
        raise UserError(
            f"{params.dataset}: {type(error).__name__}: {error}. Correct dataset, config, split or "
            "revision, or check the network"
        ) from error


def _wanted(
    columns: Collection[str], params: HuggingfaceCorpus | HuggingfaceInstructions
) -> list[str]:
    """Those of the data set's columns that we read."""
    wanted = params.wanted
    if missing := wanted.missing(columns):
        raise UserError(f"{params.dataset}: {missing_columns(missing, wanted.paths, columns)}")
    return [column for column in columns if column in wanted.roots]
