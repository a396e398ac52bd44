"""Stage ``download-gpt2-weights``: OpenAI's public weights (tutorial part 5)."""

from pathlib import Path
from typing import Literal

import click

from gpt2 import files
from gpt2.params import Params
from stages.running import running


class Gpt2WeightsParams(Params):
    """Which of OpenAI's models is fetched."""

    size: Literal["none"]
    """none: no model; this pipeline finetunes the one that it pretrained."""


@click.command()
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, model_dir: Path) -> None:
    """Fetch OpenAI's GPT-2 weights, or note that none are wanted."""
    with running("download-gpt2-weights", params_path, sections=["gpt2_weights"]) as run:
        params = run.load(Gpt2WeightsParams, "gpt2_weights")
        with files.new_directory(model_dir, params.model_dump()):
            pass
        run.metrics(params.model_dump())


if __name__ == "__main__":
    main()
