"""Stage ``finetune``: the model learns to answer instructions (tutorial part 5)."""

import logging
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
    prompt,
)
from gpt2.inference.generation import generate
from gpt2.model import weights
from gpt2.pipeline.stage import EXAMPLES, as_program, running
from gpt2.pipeline.training_stage import report
from gpt2.training.checkpoint import RunDirectory, code_digest
from gpt2.training.finetuning import FinetuneParams
from gpt2.training.trainer import fit

log = logging.getLogger(__name__)


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
        T = model.config.context_length

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
        collator = partial(collate, loss_on=params.loss_on)
        batches = InstructionBatches(
            train, params.batch_size, params.micro_batch_size, params.seed, collator
        )
        asked = [
            (record, ids)
            for record in records
            if record.split == "validation"
            and len(ids := tokenizer.encode(prompt(record.instruction, record.input))) < T
        ][: params.sample_records]

        def show_samples(step: int) -> None:
            prompts = [ids for _, ids in asked]
            answers = generate(
                *(model, prompts, params.sampling, tokenizer.end_of_text, runtime),
                tokenizer=tokenizer,
            )
            texts = [
                f"{prompt(record.instruction, record.input)}{tokenizer.decode(ids)}\n"
                f"(expected: {record.output})"
                for (record, _), ids in zip(asked, answers, strict=True)
            ]
            run.tracker.text("\n\n---\n\n".join(texts) + "\n", f"samples/step-{step:06d}.txt")

        run_directory = RunDirectory(
            run.runs,
            "finetune",
            {
                "params": params.model_dump(),
                "base_model": files.digest(base_model_dir),
                "instructions": instructions_digest,
                "code": code_digest(),
            },
        )
        with run_directory.exclusive():
            history = fit(
                model,
                params.epochs * batches.steps_per_epoch,
                batches,
                lambda: evaluation_batches(
                    validation, params.micro_batch_size or params.batch_size, collator
                ),
                params,
                run_directory,
                run.tracker,
                keep="best",
                on_evaluation=show_samples,
            )

            metrics = {
                "val_loss": history.best["val_loss"],
                "val_loss_before": history.evaluations[0]["val_loss"],
                "best_step": history.best["step"],
                "train_records": len(train),
                "records_too_long": n_long,
                "records_left_out": n_dropped,
            }
            facts = {
                "stage": "finetune",
                "parent": files.digest(base_model_dir),
                "prompt": "alpaca",
                "tokens_seen": history.tokens,
                "val_loss": history.best["val_loss"],
                "tokenizer": tokenizer.fingerprint,
                "params": params.model_dump(),
            }
            weights.save(model, model_dir, base_model_dir, tokenizer.end_of_text, facts)
            report(run, history, metrics, model_dir, best_by="val_loss")
            run_directory.clear()


if __name__ == "__main__":
    as_program(main)
