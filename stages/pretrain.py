"""Stage ``pretrain``: a GPT-2 learns to predict the next token of the corpus (tutorial part 4)."""

from pathlib import Path

import click
import torch

from gpt2.core import files
from gpt2.core.device import choose_runtime
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.windows import TrainingWindows, evaluation_batches
from gpt2.model import weights
from gpt2.pipeline.stage import EXAMPLES, NO_WEIGHTS, as_program, running
from gpt2.training import pretraining
from gpt2.training.curves import write_curves
from gpt2.training.pretraining import PretrainParams, initial_model, micro_batches, sample_text
from gpt2.training.trainer import fit

PLOT = Path("plots", "pretrain.csv")


@click.command(epilog=EXAMPLES.format("pretrain"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--tokens-dir", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer-dir", type=click.Path(path_type=Path), required=True)
@click.option("--initial-weights", type=click.Path(path_type=Path), default=NO_WEIGHTS)
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(
    params_path: Path,
    tokens_dir: Path,
    tokenizer_dir: Path,
    initial_weights: Path,
    model_dir: Path,
) -> None:
    """Train a GPT-2 on the token shards, from random or from given weights."""
    with running("pretrain", params_path, sections=["pretrain"]) as run:
        params = run.load(PretrainParams, "pretrain")
        files.read_manifest(tokenizer_dir)
        tokenizer = Tokenizer.load(tokenizer_dir)
        train = Tokens.open(tokens_dir, "train", tokenizer.fingerprint)
        validation = Tokens.open(tokens_dir, "validation", tokenizer.fingerprint)
        runtime = choose_runtime(params)
        digest = files.digest(tokens_dir)
        run.tracker.tags({"device": str(runtime.device), "initial_weights": str(initial_weights)})
        run.tracker.dataset(
            "tokens/train",
            digest=digest,
            source=tokens_dir,
            context="training",
            rows=train.documents,
            tokens=len(train),
        )

        torch.manual_seed(params.seed)
        start = None if initial_weights == NO_WEIGHTS else initial_weights
        model = initial_model(params.model, tokenizer, start)
        parent = {} if start is None else {"parent": files.digest(start)}
        T, B = params.model.context_length, params.batch_size
        windows = TrainingWindows(train, T, B, params.seed)

        def show_samples(step: int) -> None:
            text = sample_text(model, params.prompts, tokenizer, params.sampling, runtime)
            run.tracker.text(text, f"samples/step-{step:06d}.txt")

        inputs = {"tokens": digest, "tokenizer": tokenizer.fingerprint, **parent}
        directory, shared = pretraining.run_directories(run.runs, params, runtime.device, inputs)
        with directory.exclusive():
            history = fit(
                model,
                params.steps,
                lambda step: micro_batches(windows(step), params.micro_batch_size),
                lambda: evaluation_batches(validation, T, params.micro_batch_size or B),
                params,
                directory,
                run.tracker,
                on_evaluation=show_samples,
                shared=shared,
            )

            facts = pretraining.facts(params, history, tokenizer, parent)
            weights.save(model, model_dir, tokenizer_dir, tokenizer.end_of_text, facts)
            write_curves(history, PLOT, run.tracker)
            epochs = params.steps / windows.steps_per_epoch
            run.metrics(pretraining.metrics(model, history, validation, epochs), history.speed)
            run.tracker.model(model_dir, best_by="bits_per_byte")
            directory.clear()


if __name__ == "__main__":
    as_program(main)
