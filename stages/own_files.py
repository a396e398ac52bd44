"""Stage ``own-files``: links to a user's own files, through which DVC sees what is in them.

DVC hashes what an output leads to if that is a link, whether to a file or to a directory. It takes
nothing of it into its cache, and deletes the link alone.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.yaml_files import load
from gpt2.data.sources import local_files
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.local_files import OUTPUTS, FileCorpus, FileInstructions, is_output
from gpt2.data.sources.sections import CorpusParams, InstructionsParams
from gpt2.evaluation.judge import judge_files
from gpt2.evaluation.judge.params import FileModel, JudgeParams, LlamaCppParams
from gpt2.inference.importing.public_weights import Gpt2WeightsParams, checkpoint
from gpt2.pipeline.stage import EXAMPLES, as_program, framed

log = logging.getLogger(__name__)

NONE = "none\n"
"""Stands where no file of the user's own is named."""
MOST_FILES_BESIDE, MOST_BYTES_BESIDE = 10_000, 2**30
"""What DVC may have to read in a folder beside the files that are meant: seconds, once."""


class Own(NamedTuple):
    """Files that a parameter names."""

    key: str
    """The parameter."""
    folder: Path
    files: Sequence[Path]
    """Below the folder."""
    grows: bool
    """Whether files that come into the folder later are meant, too."""


@click.command(epilog=EXAMPLES.format("own-files"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--links-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, links_dir: Path) -> None:
    """Link the files of your own that the parameters name, so that DVC notices their changes."""
    with framed("own-files") as root:
        corpus: CorpusParams = load(CorpusParams, params_path, "corpus")
        instructions: InstructionsParams = load(InstructionsParams, params_path, "instructions")
        judge: JudgeParams = load(JudgeParams, params_path, "judge")
        weights = load(Gpt2WeightsParams, params_path, "gpt2_weights")
        own = {
            "corpus.path": own_data("corpus", corpus, root),
            "instructions.path": own_data("instructions", instructions, root),
            "judge.model.file": own_judge(judge, root),
            "gpt2_weights.path": own_checkpoint(weights, root),
        }
        # All are found before the first link changes.
        for name, found in own.items():
            renew(links_dir / name, found, root)


def own_data(section: str, params: CorpusParams | InstructionsParams, root: Path) -> Own | None:
    """The files that ``corpus`` or ``instructions`` name.

    Raises:
        UserError: they are not there, or outputs of the pipeline.
    """
    match params:
        case FileCorpus() | FileInstructions():
            key = f"{section}.path"
            try:
                folder, paths = local_files.find(params, root)
            except UserError as error:
                raise UserError(f"{key}: {error}") from error
            return _checked(Own(key, folder, paths, paths != [root / params.path]), root)
        case HuggingfaceCorpus() | HuggingfaceInstructions():
            folder = root / params.dataset
            if folder.is_dir():
                paths = sorted(path for path in folder.rglob("*") if path.is_file())
                return _checked(Own(f"{section}.dataset", folder, paths, True), root)
    return None


def own_judge(params: JudgeParams, root: Path) -> Own | None:
    """The judge's file.

    Raises:
        UserError: as `own_data`.
    """
    if not isinstance(params, LlamaCppParams) or not isinstance(params.model, FileModel):
        return None
    path = judge_files.own_file(params.model, root)
    return _checked(Own("judge.model.file", path.parent, [path], False), root)


def own_checkpoint(params: Gpt2WeightsParams, root: Path) -> Own | None:
    """The files of the checkpoint that ``gpt2_weights`` name.

    Raises:
        UserError: as `own_data`.
    """
    if params.size == "none" or params.source != "directory":
        return None
    folder = checkpoint(params, root)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return _checked(Own("gpt2_weights.path", folder, paths, True), root)


def _checked(own: Own, root: Path) -> Own:
    for folder in sorted({path.parent for path in own.files}):
        if is_output(folder, root):
            raise UserError(
                f"{own.key}: {folder}: the pipeline itself writes there. Copy what you want to "
                "keep to a place of your own, and name that"
            )
    return own


def renew(place: Path, own: Own | None, root: Path) -> None:
    """Put at ``place`` what leads DVC to ``own``, instead of what is there.

    That is a link to the folder if DVC can watch all of it, which shows it new files, too; or a
    directory with a link for each file.
    """
    hindrance = obstacle(own, root) if own and own.grows else None
    if own and hindrance:
        log.warning(
            "%s: new files in %s will not be noticed, only changes of the %d that are there now, "
            "because %s. Give them a folder of their own, or after a new one run: "
            "dvc repro -f own-files",
            *(own.key, own.folder, len(own.files), hindrance),
        )
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)  # of links, which it does not follow
    if own is None:
        files.write_text(place, NONE)
        return
    place.unlink(missing_ok=True)
    if own.grows and not hindrance:
        _link(place, own.folder)
    else:
        for path in own.files:
            _link(place / path.relative_to(own.folder), path)


def obstacle(own: Own, root: Path) -> str | None:
    """Why DVC cannot watch the whole folder, of which it would read every file; None if it can."""
    folder = own.folder.resolve()
    if any((root / output).resolve().is_relative_to(folder) for output in OUTPUTS):
        return "the pipeline writes there"
    missing, n_files, n_bytes = set(own.files), 0, 0
    for directory, subdirectories, names in os.walk(own.folder):
        if foreign := {".dvc", ".dvcignore"} & {*subdirectories, *names}:
            return f"{Path(directory, foreign.pop())} belongs to another repository of DVC's"
        if ".git" in subdirectories:
            subdirectories.remove(".git")  # DVC leaves it out, too
        for path in (Path(directory, name) for name in names):
            if not _readable(path):
                return f"{str(path).encode(errors='replace').decode()} cannot be read"
            if path in missing:
                missing.remove(path)
                continue
            n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
            if n_files > MOST_FILES_BESIDE or n_bytes > MOST_BYTES_BESIDE:
                return "it holds much else, which DVC would have to read"
    return f"{min(missing)} lies behind a link" if missing else None


def _readable(path: Path) -> bool:
    """Whether it is what DVC can read: a file, no socket or broken link, whose name is UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return path.is_file() and os.access(path, os.R_OK)


def _link(place: Path, target: Path) -> None:
    """Within this copy of the repository a relative link, so that the copy can be moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    start, here = place.parent.resolve(), Path.cwd()
    within = start.is_relative_to(here) and target.is_relative_to(here) and ".." not in target.parts
    place.symlink_to(os.path.relpath(target, start) if within else target)


if __name__ == "__main__":
    as_program(main)
