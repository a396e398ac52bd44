"""Stage ``pretrain``: a GPT-2 learns the language of the corpus (tutorial part 4)."""

from pathlib import Path
from typing import Literal

import click
import torch

from gpt2 import files, weights
from gpt2.checkpoint import RunDirectory, SharedState, code_digest
from gpt2.device import choose_runtime
from gpt2.errors import UserError
from gpt2.generation import generate
from gpt2.model import GPT2, Architecture, GPT2Config
from gpt2.params import Positive
from gpt2.sampling import SamplingParams
from gpt2.shards import Tokens, TrainingWindows, evaluation_batches
from gpt2.tokenizer import Tokenizer
from gpt2.trainer import Evaluation, TrainParams, compiles, fit
from stages.running import EXAMPLES, NO_WEIGHTS, as_program, running
from stages.training import micro_batches, report


class PretrainParams(TrainParams):
    """How the model is pretrained."""

    initial_weights: Literal["none", "data/models/gpt2"] = "none"
    """none: random ones. Else training goes on with that model's, and with its vocabulary."""
    model: Architecture
    """With initial weights their shape; ``context_length`` may be shorter, ``dropout`` any."""
    steps: Positive
    """Optimizer steps."""
    prompts: list[str]
    """Texts that the model continues at each evaluation."""
    sampling: SamplingParams
    """How it continues them."""


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
        tokens_digest = files.digest(tokens_dir)
        run.tracker.tags({"device": str(runtime.device), "initial_weights": str(initial_weights)})
        run.tracker.dataset(
            "tokens/train",
            digest=tokens_digest,
            source=tokens_dir,
            context="training",
            rows=train.documents,
            tokens=len(train),
        )

        torch.manual_seed(params.seed)
        parent: dict[str, str] = {}
        if initial_weights == NO_WEIGHTS:
            model = GPT2(GPT2Config(vocab_size=tokenizer.n_vocab, **params.model.model_dump()))
        else:
            model = load_initial(initial_weights, params.model, tokenizer)
            parent["parent"] = files.digest(initial_weights)
        T, B = params.model.context_length, params.batch_size
        windows = TrainingWindows(train, T, B, params.seed)
        prompt_ids = [tokenizer.encode(prompt) for prompt in params.prompts]

        def show_samples(step: int) -> None:
            continued = generate(
                *(model, prompt_ids, params.sampling, tokenizer.end_of_text, runtime),
                tokenizer=tokenizer,
            )
            texts = [
                prompt + tokenizer.decode(ids)
                for prompt, ids in zip(params.prompts, continued, strict=True)
            ]
            run.tracker.text("\n\n---\n\n".join(texts) + "\n", f"samples/step-{step:06d}.txt")

        fingerprint = {
            "params": params.model_dump(),
            "tokens": tokens_digest,
            "tokenizer": tokenizer.fingerprint,
            "code": code_digest(),
            **parent,
        }
        run_directory = RunDirectory(run.runs, "pretrain", fingerprint)
        of_any_length = {
            "params": params.model_dump(exclude={"steps"}),
            "compile": compiles(params, runtime.device, params.steps),
        }
        shared = SharedState(run.runs, "pretrain", fingerprint | of_any_length)
        with run_directory.exclusive():
            history = fit(
                model,
                params.steps,
                lambda step: micro_batches(windows(step), params.micro_batch_size),
                lambda: evaluation_batches(validation, T, params.micro_batch_size or B),
                params,
                run_directory,
                run.tracker,
                on_evaluation=show_samples,
                shared=shared,
            )

            result = Evaluation(history.evaluations[-1]["val_loss"], len(validation) - 1)
            metrics = {
                "val_loss": result.loss,
                "perplexity": result.perplexity,
                "bits_per_byte": result.bits_per_byte(validation.text_bytes),
                "parameters": sum(tensor.numel() for tensor in model.parameters()),
                "epochs": params.steps / windows.steps_per_epoch,
            }
            training = {
                "stage": "pretrain",
                **parent,
                "tokens_seen": history.tokens,
                "val_loss": result.loss,
                "tokenizer": tokenizer.fingerprint,
                "params": params.model_dump(),
            }
            weights.save(model, model_dir, tokenizer_dir, tokenizer.end_of_text, training)
            report(run, history, metrics, model_dir, best_by="bits_per_byte")
            run_directory.clear()


def load_initial(directory: Path, wanted: Architecture, tokenizer: Tokenizer) -> GPT2:
    """The model to go on with; of its context, as much as ``wanted``.

    Raises:
        UserError: it has another shape than ``wanted``, or the tokens are not of its vocabulary.
    """
    model = weights.load(directory, wanted.dropout)
    if weights.load_tokenizer(directory, model).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the tokens are not of the vocabulary of {directory}. Run: dvc repro tokenize"
        )
    if problem := other_shape(wanted, model.config):
        raise UserError(problem)
    if wanted.context_length < model.config.context_length:
        model.crop(wanted.context_length)
    return model


def other_shape(wanted: Architecture, found: Architecture) -> str | None:
    """What is wrong if ``wanted`` is not the shape of the initial weights, ``found``, and what to
    write. Only the context may differ: it may be shorter."""
    keys = ("n_layer", "n_head", "n_embd")
    if wanted.context_length <= found.context_length and all(
        getattr(wanted, key) == getattr(found, key) for key in keys
    ):
        return None
    shape = ", ".join(f"{key}: {getattr(found, key)}" for key in ("context_length", *keys))
    return (
        "pretrain.model: not the shape of pretrain.initial_weights. "
        f"Write {{{shape}, dropout: {wanted.dropout}}}; context_length may be less"
    )


if __name__ == "__main__":
    as_program(main)
