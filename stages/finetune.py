"""Stage ``finetune``: the model learns to answer instructions (tutorial part 5)."""

from functools import partial
from pathlib import Path

import click

from gpt2.core import files
from gpt2.core.device import choose_runtime
from gpt2.data.instructions import (
    InstructionBatches,
    choose_records,
    collate,
    encode_split,
    evaluation_batches,
    load_records,
)
from gpt2.model import weights
from gpt2.pipeline.stage import EXAMPLES, as_program, running
from gpt2.training import finetuning
from gpt2.training.curves import write_curves
from gpt2.training.finetuning import FinetuneParams, SampleAnswers
from gpt2.training.trainer import fit

PLOT = Path("plots", "finetune.csv")


@click.command(epilog=EXAMPLES.format("finetune"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--instructions-file", type=click.Path(path_type=Path), required=True)
@click.option("--base-model-dir", type=click.Path(path_type=Path), required=True)
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, instructions_file: Path, base_model_dir: Path, model_dir: Path) -> None:
    """Finetune a model on the training records."""
    with running("finetune", params_path, sections=["finetune"]) as run:
        params = run.load(FinetuneParams, "finetune")
        model = weights.load(base_model_dir, params.dropout)
        tokenizer = weights.load_tokenizer(base_model_dir, model)
        runtime = choose_runtime(params)
        T, B = model.config.context_length, params.batch_size

        instructions_digest = files.read_seal(instructions_file)
        records = choose_records(
            load_records(instructions_file),
            params.train_records or {},
            params.max_validation_records,
            params.seed,
        )
        train, n_long, n_dropped = encode_split(records, "train", tokenizer, T, params.too_long)
        validation, _, _ = encode_split(records, "validation", tokenizer, T, params.too_long)
        run.tracker.tags({"device": str(runtime.device)})
        run.tracker.dataset(
            "instructions/train",
            digest=instructions_digest,
            source=instructions_file,
            context="training",
            rows=len(train),
            tokens=sum(len(example.ids) for example in train),
        )
        packed = partial(collate, loss_on=params.loss_on)
        batches = InstructionBatches(train, B, params.micro_batch_size, params.seed, packed)
        samples = SampleAnswers(records, params.sample_records, tokenizer, T)

        def show_samples(step: int) -> None:
            text = samples.text(model, params.sampling, runtime)
            run.tracker.text(text, f"samples/step-{step:06d}.txt")

        parent = files.digest(base_model_dir)
        inputs = {"base_model": parent, "instructions": instructions_digest}
        directory = finetuning.run_directory(run.runs, params, inputs)
        with directory.exclusive():
            history = fit(
                model,
                params.epochs * batches.steps_per_epoch,
                batches,
                lambda: evaluation_batches(validation, params.micro_batch_size or B, packed),
                params,
                directory,
                run.tracker,
                keep="best",
                on_evaluation=show_samples,
            )

            facts = finetuning.facts(params, history, tokenizer, parent)
            weights.save(model, model_dir, base_model_dir, tokenizer.end_of_text, facts)
            write_curves(history, PLOT, run.tracker)
            run.metrics(finetuning.metrics(history, len(train), n_long, n_dropped), history.speed)
            run.tracker.model(model_dir, best_by="val_loss")
            directory.clear()


if __name__ == "__main__":
    as_program(main)
