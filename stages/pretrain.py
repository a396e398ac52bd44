"""Stage ``pretrain``: a GPT-2 learns the language of the corpus (tutorial part 4)."""

from pathlib import Path

import click
import torch

from gpt2 import files, weights
from gpt2.checkpoint import RunDirectory, code_digest
from gpt2.device import choose_runtime
from gpt2.generation import SamplingParams, generate
from gpt2.model import GPT2, Architecture, GPT2Config
from gpt2.params import Positive
from gpt2.shards import Tokens, TrainingWindows, evaluation_batches
from gpt2.streams import standard_streams
from gpt2.tokenizer import Tokenizer
from gpt2.trainer import Evaluation, TrainParams, fit
from stages.running import EXAMPLES, running
from stages.training import micro_batches, report


class PretrainParams(TrainParams):
    """How the model is pretrained."""

    model: Architecture
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
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, tokens_dir: Path, tokenizer_dir: Path, model_dir: Path) -> None:
    """Train a GPT-2 from random weights on the token shards."""
    with running("pretrain", params_path, sections=["pretrain"]) as run:
        params = run.load(PretrainParams, "pretrain")
        files.read_manifest(tokenizer_dir)
        tokenizer = Tokenizer.load(tokenizer_dir)
        train = Tokens.open(tokens_dir, "train", tokenizer.fingerprint)
        validation = Tokens.open(tokens_dir, "validation", tokenizer.fingerprint)
        runtime = choose_runtime(params)
        tokens_digest = files.digest(tokens_dir)
        run.tracker.tags({"device": str(runtime.device)})
        run.tracker.dataset(
            "tokens/train",
            digest=tokens_digest,
            source=tokens_dir,
            context="training",
            rows=train.documents,
            tokens=len(train),
        )

        torch.manual_seed(params.seed)
        model = GPT2(GPT2Config(vocab_size=tokenizer.n_vocab, **params.model.model_dump()))
        T, B = params.model.context_length, params.batch_size
        windows = TrainingWindows(train, T, B, params.seed)
        prompt_ids = [tokenizer.encode(prompt) for prompt in params.prompts]

        def show_samples(step: int) -> None:
            continued = generate(model, prompt_ids, params.sampling, tokenizer.end_of_text, runtime)
            texts = [
                prompt + tokenizer.decode(ids)
                for prompt, ids in zip(params.prompts, continued, strict=True)
            ]
            run.tracker.text("\n\n---\n\n".join(texts) + "\n", f"samples/step-{step:06d}.txt")

        run_directory = RunDirectory(
            run.runs,
            "pretrain",
            {
                "params": params.model_dump(),
                "tokens": tokens_digest,
                "tokenizer": tokenizer.fingerprint,
                "code": code_digest(),
            },
        )
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
            )

            result = Evaluation(history.evaluations[-1]["val_loss"], len(validation) - 1)
            metrics = {
                "val_loss": result.loss,
                "perplexity": result.perplexity,
                "bits_per_byte": result.bits_per_byte(validation.text_bytes),
                "parameters": sum(tensor.numel() for tensor in model.parameters()),
                "epochs": params.steps / windows.steps_per_epoch,
            }
            facts = {
                "stage": "pretrain",
                "tokens_seen": history.tokens,
                "val_loss": result.loss,
                "tokenizer": tokenizer.fingerprint,
                "params": params.model_dump(),
            }
            weights.save(model, model_dir, tokenizer_dir, tokenizer.end_of_text, facts)
            report(run, history, metrics, model_dir, best_by="bits_per_byte")
            run_directory.clear()


if __name__ == "__main__":
    with standard_streams(needed=False):
        main()
