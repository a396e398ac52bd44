"""Links to a user's own files, through which DVC notices changes in them.

If an output of a stage is a link to a file or a directory, DVC hashes what it points to. DVC does
not copy the contents into its cache, and deletes only the link.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.sources import local_files
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.local_files import OUTPUTS, FileCorpus, FileInstructions, is_output
from gpt2.data.sources.params import CorpusParams, InstructionsParams

log = logging.getLogger(__name__)

NONE = "none\n"
"""Content of the file in place of a link if the parameter names no own files."""
MAX_OTHER_FILES, MAX_OTHER_BYTES = 10_000, 2**30
"""Limits for other files in a linked folder. DVC has to hash them as well: seconds, once."""


class OwnFiles(NamedTuple):
    """The user's own files that a parameter names."""

    key: str
    """The parameter."""
    folder: Path
    files: Sequence[Path]
    """Files below the folder."""
    grows: bool
    """Whether files that are added to the folder later belong to them."""


def own_data(
    section: str, params: CorpusParams | InstructionsParams, root: Path
) -> OwnFiles | None:
    """The files that the section ``corpus`` or ``instructions`` names; None: no own files.

    Raises:
        UserError: they do not exist, or are outputs of the pipeline.
    """
    match params:
        case FileCorpus() | FileInstructions():
            key = f"{section}.path"
            try:
                folder, paths = local_files.find(params, root)
            except UserError as error:
                raise UserError(f"{key}: {error}") from error
            return checked(OwnFiles(key, folder, paths, paths != [root / params.path]), root)
        case HuggingfaceCorpus() | HuggingfaceInstructions():
            folder = root / params.dataset
            if folder.is_dir():
                paths = sorted(path for path in folder.rglob("*") if path.is_file())
                return checked(OwnFiles(f"{section}.dataset", folder, paths, True), root)
    return None


def checked(own: OwnFiles, root: Path) -> OwnFiles:
    """The same files.

    Raises:
        UserError: the pipeline writes into one of their folders.
    """
    for folder in sorted({path.parent for path in own.files}):
        if is_output(folder, root):
            raise UserError(
                f"{own.key}: {folder}: the pipeline itself writes there. Copy what you want to "
                "keep to a place of your own, and name that"
            )
    return own


def link(place: Path, own: OwnFiles | None, root: Path) -> None:
    """Replace what is at ``place`` by links to ``own``.

    This is one link to the folder if DVC can watch all of it, so that it notices new files as well.
    Otherwise it is a directory with one link per file.
    """
    problem = obstacle(own, root) if own and own.grows else None
    if own and problem:
        log.warning(
            "%s: new files in %s will not be noticed, only changes of the %d that are there now, "
            "because %s. Give them a folder of their own, or after a new one run: "
            "dvc repro -f own-files",
            *(own.key, own.folder, len(own.files), problem),
        )
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)  # it contains links, which are not followed
    if own is None:
        files.write_text(place, NONE)
        return
    place.unlink(missing_ok=True)
    if own.grows and not problem:
        _link(place, own.folder)
    else:
        for path in own.files:
            _link(place / path.relative_to(own.folder), path)


def obstacle(own: OwnFiles, root: Path) -> str | None:
    """The reason why DVC cannot watch the whole folder, where it would read every file; or None."""
    folder = own.folder.resolve()
    if any((root / output).resolve().is_relative_to(folder) for output in OUTPUTS):
        return "the pipeline writes there"
    missing, n_files, n_bytes = set(own.files), 0, 0
    for directory, subdirectories, names in os.walk(own.folder):
        if foreign := {".dvc", ".dvcignore"} & {*subdirectories, *names}:
            return f"{Path(directory, foreign.pop())} belongs to another DVC repository"
        if ".git" in subdirectories:
            subdirectories.remove(".git")  # DVC skips it as well
        for path in (Path(directory, name) for name in names):
            if not _readable(path):
                return f"{str(path).encode(errors='replace').decode()} cannot be read"
            if path in missing:
                missing.remove(path)
                continue
            n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
            if n_files > MAX_OTHER_FILES or n_bytes > MAX_OTHER_BYTES:
                return "it holds much else, which DVC would have to read"
    return f"{min(missing)} is behind a link" if missing else None


def _readable(path: Path) -> bool:
    """Whether DVC can read it: a file, not a socket or a broken link, with a name in UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return path.is_file() and os.access(path, os.R_OK)


def _link(place: Path, target: Path) -> None:
    """Link ``place`` to ``target``; relatively inside this repository, so that it can be moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    start, here = place.parent.resolve(), Path.cwd()
    within = start.is_relative_to(here) and target.is_relative_to(here) and ".." not in target.parts
    place.symlink_to(os.path.relpath(target, start) if within else target)
