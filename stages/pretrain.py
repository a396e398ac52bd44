"""Stage ``pretrain``: a GPT-2 learns the language of the corpus (tutorial part 4)."""

from pathlib import Path

import click
import torch

from gpt2.core import files
from gpt2.core.device import choose_runtime
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.windows import TrainingWindows, evaluation_batches
from gpt2.inference.generation import generate
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.pipeline.stage import EXAMPLES, NO_WEIGHTS, as_program, running
from gpt2.pipeline.training_stage import micro_batches, report
from gpt2.training.checkpoint import RunDirectory, SharedState, code_digest
from gpt2.training.pretraining import PretrainParams, load_initial
from gpt2.training.trainer import Evaluation, compiles, fit


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


if __name__ == "__main__":
    as_program(main)
