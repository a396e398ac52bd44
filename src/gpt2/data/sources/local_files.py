"""``source: file``: one file, all files below a directory, or those that match a pattern."""

import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.fetching.checks import Sha256
from gpt2.data.parsing.formats import FormatParams
from gpt2.data.parsing.rows import RawData, Row, inside
from gpt2.data.sources.row_params import CorpusFiles, InstructionFiles

PATTERN = frozenset("*?[")
OUTPUTS = tuple(
    Path(name)
    for name in (
        *("data/own", "data/raw", "data/tokenizer", "data/tokens", "data/responses"),
        *("data/models/pretrained", "data/models/gpt2", "data/models/finetuned"),
        *("data/judgements", "data/runs", "metrics", "plots", "reports"),
    )
)
"""Directories that the pipeline writes. The user's own files must not be in them."""


class FileSource(FormatParams):
    """Files on this machine."""

    source: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """A file, a directory or a pattern such as ``texts/**/*.txt``, relative to the repository's
    root. In a directory all files with a known suffix are used."""
    sha256: Sha256 | None = None
    """Digest of the file, if ``path`` is one file."""


class FileCorpus(FileSource, CorpusFiles):
    """Documents in files on this machine."""


class FileInstructions(FileSource, InstructionFiles):
    """Instruction records in files on this machine."""


class Found(NamedTuple):
    """The files of a ``path`` parameter, in their order."""

    folder: Path
    """Names in messages and facts are relative to it."""
    files: list[Path]


def is_output(path: Path, root: Path) -> bool:
    """Whether ``path`` is a directory that the pipeline writes, or inside one."""
    place = (root / path).resolve()
    return any(place.is_relative_to((root / output).resolve()) for output in OUTPUTS)


def load_rows(params: FileCorpus | FileInstructions, root: Path) -> RawData:
    """The rows of all files, in the order of their paths.

    Raises:
        UserError: there are none, a file cannot be read, or it has another sha256.
    """
    reader, place = params.reader(), root / params.path
    folder, paths = find(params, root)
    if params.sha256 is not None and paths != [place]:
        raise UserError(f"{place}: several files, but one sha256. Remove it, or name one file")
    facts: dict[str, Any] = {}

    def rows() -> Iterator[Row]:
        for path in paths:
            name = path.relative_to(folder).as_posix()
            try:
                digest = files.sha256(path)
                if params.sha256 not in (None, digest):
                    raise UserError(f"{path}: sha256 is {digest}, expected {params.sha256}")
                facts[name] = {"bytes": path.stat().st_size, "sha256": digest}
                with path.open("rb") as file:
                    found = reader.rows(name, file)
                    yield from found if path == place else inside("", name, found)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    return RawData(str(place), rows(), {"raw": facts})


def find(params: FileCorpus | FileInstructions, root: Path) -> Found:
    """The files of a ``path`` parameter.

    Raises:
        UserError: there are none, or a name is not valid UTF-8.
    """
    reader, place = params.reader(), root / params.path
    if place.is_file():
        return Found(place.parent, [place])
    if place.is_dir():
        folder, missing = place, f"no file below it ends in {reader.suffixes()}"
        found = [file for file in folder.rglob("*") if reader.knows(str(file.relative_to(folder)))]
    else:
        folder = _before_pattern(params.path, root)
        missing = "no file matches this pattern. Correct it"
        if folder == place:
            raise UserError(f"{place}: no such file. Correct the path in the parameters")
        found = list(folder.glob(str(place.relative_to(folder))))
    if not (paths := sorted(file for file in found if file.is_file())):
        raise UserError(f"{place}: {missing}")
    for file in paths:
        try:
            str(file).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{os.fsencode(file)!r}: this name is not UTF-8. Rename it") from error
    return Found(folder, paths)


def _before_pattern(path: str, root: Path) -> Path:
    """The beginning of ``path`` without wildcards."""
    return root.joinpath(*takewhile(lambda part: not PATTERN & set(part), PurePath(path).parts))
