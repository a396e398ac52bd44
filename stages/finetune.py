"""Stage ``finetune``: the model learns to answer instructions (tutorial part 5)."""

import logging
from functools import partial
from pathlib import Path

import click

from gpt2 import files, weights
from gpt2.checkpoint import RunDirectory, code_digest
from gpt2.device import choose_runtime
from gpt2.errors import UserError
from gpt2.generation import generate
from gpt2.instructions import (
    Example,
    InstructionBatches,
    InstructionParams,
    collate,
    encode,
    evaluation_batches,
    load_records,
    prompt,
)
from gpt2.params import Fraction, Positive
from gpt2.sampling import SamplingParams
from gpt2.sources.records import InstructionRecord, sample_records
from gpt2.tokenizer import Tokenizer
from gpt2.trainer import TrainParams, fit
from stages.running import EXAMPLES, as_program, running
from stages.training import report

log = logging.getLogger(__name__)


class FinetuneParams(TrainParams, InstructionParams):
    """How the base model is finetuned."""

    base_model: str
    """The model directory to start from: data/models/pretrained or data/models/gpt2."""
    epochs: Positive
    """Times that every training record is seen."""
    dropout: Fraction = 0.0
    """Probability of dropping an activation while finetuning."""
    train_records: dict[str, Positive] | None = None
    """Most training records of a kind, drawn by a hash; of a kind that is not named: all."""
    max_validation_records: Positive | None = None
    """Most records of each kind in the validation split to evaluate on; null: all."""
    sample_records: Positive = 4
    """Validation records that the model answers at each evaluation."""
    sampling: SamplingParams
    """How it answers them."""


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
        records = choose_records(load_records(instructions_file), params)
        train, n_long, n_dropped = _examples(records, "train", tokenizer, T, params)
        validation, _, _ = _examples(records, "validation", tokenizer, T, params)
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


def choose_records(
    records: list[InstructionRecord], params: FinetuneParams
) -> list[InstructionRecord]:
    """The records to train and to validate on, drawn by their hash."""
    kinds = {record.kind for record in records}
    limits = params.train_records or {}
    if unknown := sorted(limits.keys() - kinds):
        log.info(
            "finetune.train_records: no record is of kind %s; there are %s",
            ", ".join(unknown),
            ", ".join(sorted(kinds)),
        )
    ordered = [*(kind for kind in limits if kind in kinds), *sorted(kinds - limits.keys())]
    chosen: list[InstructionRecord] = []
    for kind in ordered:
        for split, most in (
            ("train", limits.get(kind)),
            ("validation", params.max_validation_records),
        ):
            of_kind = [record for record in records if (record.kind, record.split) == (kind, split)]
            chosen += sample_records(of_kind, most, params.seed)
    return chosen


def _examples(
    records: list[InstructionRecord],
    split: str,
    tokenizer: Tokenizer,
    context_length: int,
    params: InstructionParams,
) -> tuple[list[Example], int, int]:
    """The examples of a split; how many records were too long, and how many left out."""
    encoded = [
        encode(record, tokenizer, context_length, params.too_long)
        for record in records
        if record.split == split
    ]
    examples = [example for example, _ in encoded if example]
    if not examples:
        raise UserError(
            f"no record of the {split} split fits the context of {context_length} tokens. "
            "Give more records, or finetune a model with a longer context"
        )
    return examples, sum(long for _, long in encoded), len(encoded) - len(examples)


if __name__ == "__main__":
    as_program(main)
