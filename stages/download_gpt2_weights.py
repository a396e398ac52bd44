"""Stage ``download-gpt2-weights``: OpenAI's public weights (tutorial part 5)."""

from pathlib import Path
from typing import Any

import click

from gpt2.core import files
from gpt2.data.fetching.download import DOWNLOADS
from gpt2.inference.importing.public_weights import Gpt2WeightsParams, copy, download
from gpt2.pipeline.stage import EXAMPLES, as_program, running


@click.command(epilog=EXAMPLES.format("download-gpt2-weights"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, model_dir: Path) -> None:
    """Download OpenAI's GPT-2 weights, or note that none are needed."""
    with running("download-gpt2-weights", params_path, sections=["gpt2_weights"]) as run:
        params = run.load(Gpt2WeightsParams, "gpt2_weights")
        metrics: dict[str, Any] = {"size": params.size}
        with files.new_directory(model_dir, {"size": params.size}) as directory:
            if params.size != "none":
                # Not at the top: a pipeline without these weights need not wait for PyTorch.
                from gpt2.inference.verification import PROMPT, verify

                run.tracker.begin()
                if params.source == "directory":
                    origin = copy(params, directory, run.root)
                else:
                    origin = download(params, directory, run.root / DOWNLOADS)
                verified = verify(directory, params.size)
                facts = {"stage": "download-gpt2-weights", "size": params.size, **origin}
                files.write_json(directory / "training.json", facts)
                run.tracker.text(PROMPT + verified["continuation"] + "\n", "continuation.txt")
                metrics |= {**origin, **verified}
        run.metrics(metrics)


if __name__ == "__main__":
    as_program(main)
