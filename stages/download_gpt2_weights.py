"""Stage ``download-gpt2-weights``: OpenAI's public weights (tutorial part 5).

A pipeline that wants none does not wait for PyTorch: what needs it is imported in the functions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.model_files import WEIGHTS
from gpt2.data.fetching.download import DOWNLOADS
from gpt2.data.fetching.hub import RELEASES
from gpt2.model.public_weights import Gpt2WeightsParams, copy, download
from gpt2.pipeline.stage import EXAMPLES, as_program, running

if TYPE_CHECKING:
    from gpt2.model.gpt2 import GPT2


@click.command(epilog=EXAMPLES.format("download-gpt2-weights"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, model_dir: Path) -> None:
    """Fetch OpenAI's GPT-2 weights, or note that none are wanted."""
    with running("download-gpt2-weights", params_path, sections=["gpt2_weights"]) as run:
        params = run.load(Gpt2WeightsParams, "gpt2_weights")
        metrics: dict[str, Any] = {"size": params.size}
        with files.new_directory(model_dir, {"size": params.size}) as directory:
            if params.size != "none":
                run.tracker.begin()
                if params.source == "directory":
                    origin = copy(params, directory, run.root)
                else:
                    origin = download(params, directory, run.root / DOWNLOADS)
                proof = prove(directory, params.size)
                facts = {"stage": "download-gpt2-weights", "size": params.size, **origin}
                files.write_json(directory / "training.json", facts)
                from gpt2.inference.text_model import PROMPT

                run.tracker.text(PROMPT + proof["continuation"] + "\n", "continuation.txt")
                metrics |= {**origin, **proof}
        run.metrics(metrics)


def prove(directory: Path, size: str) -> dict[str, Any]:
    """Show that we read the checkpoint as it is meant; figures for the metrics.

    Every tensor of the file is used once, and every parameter is set: `weights.load` sees to it.

    Raises:
        UserError: it is not a GPT-2, or not one of this size.
    """
    from gpt2.inference.text_model import PROMPT, exact_continuation
    from gpt2.model import weights

    model = weights.load(directory, foreign=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_size(model, parameters, size)
    tokenizer = weights.load_tokenizer(directory, model)
    weights.check_vocabulary(tokenizer, model, "gpt2_weights")
    return {
        "bytes": (directory / WEIGHTS).stat().st_size,
        "parameters": parameters,
        "continuation": exact_continuation(model, tokenizer, PROMPT),
    }


def check_size(model: "GPT2", parameters: int, size: str) -> None:
    """Raise `UserError` unless ``model`` is OpenAI's of this ``size``."""
    release = RELEASES.get(size)
    if release is None:
        return
    found = {**model.config.model_dump(), "parameters": parameters}
    problems = [
        f"{key} is {found[key]:,}, not {getattr(release, key):,}"
        for key in ("n_layer", "n_head", "n_embd", "parameters")
        if found[key] != getattr(release, key)
    ]
    if problems:
        raise UserError(
            f"gpt2_weights.size: the checkpoint is not GPT-2 {size}: {', '.join(problems)}. "
            "Name its size, or write any"
        )


if __name__ == "__main__":
    as_program(main)
