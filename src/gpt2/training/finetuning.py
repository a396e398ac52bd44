"""How a model is finetuned to follow instructions (tutorial part 5)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2.core.device import Runtime
from gpt2.core.params import Fraction, Positive
from gpt2.data.instructions import InstructionParams, prompt
from gpt2.data.records import InstructionRecord
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model.gpt2 import GPT2
from gpt2.training.checkpoint import RunDirectory, code_digest
from gpt2.training.history import History
from gpt2.training.params import TrainParams


class FinetuneParams(TrainParams, InstructionParams):
    """How the base model is finetuned."""

    base_model: str
    """The model directory to start from: data/models/pretrained or data/models/gpt2."""
    epochs: Positive
    """Passes over the training records."""
    dropout: Fraction = 0.0
    """Probability of dropping an activation while finetuning."""
    train_records: dict[str, Positive] | None = None
    """Maximum number of training records of a kind, drawn by a hash; kinds not named: all."""
    max_validation_records: Positive | None = None
    """Maximum number of validation records of each kind to evaluate on; null: all."""
    sample_records: Positive = 4
    """Validation records that the model answers at each evaluation."""
    sampling: SamplingParams
    """How it answers them."""


def run_directory(root: Path, params: FinetuneParams, inputs: Mapping[str, str]) -> RunDirectory:
    """Where a run keeps its checkpoints.

    ``inputs``: digests of everything else that the result depends on, by name.
    """
    fingerprint = {"params": params.model_dump(), "code": code_digest(), **inputs}
    return RunDirectory(root, "finetune", fingerprint)


class SampleAnswers:
    """Answers of the model to a few validation records, to look at while it trains."""

    def __init__(
        self,
        records: Sequence[InstructionRecord],
        count: int,
        tokenizer: Tokenizer,
        context_length: int,
    ) -> None:
        """Choose the first ``count`` validation records whose prompts leave room for an answer."""
        prompts = [
            (record, tokenizer.encode(prompt(record.instruction, record.input)))
            for record in records
            if record.split == "validation"
        ]
        self._chosen = [each for each in prompts if len(each[1]) < context_length][:count]
        self._tokenizer = tokenizer

    def text(self, model: GPT2, sampling: SamplingParams, runtime: Runtime) -> str:
        """The prompts, the answers of the model and the expected ones, as one text."""
        tokenizer = self._tokenizer
        answers = generate(
            model,
            [ids for _, ids in self._chosen],
            sampling,
            tokenizer.end_of_text,
            runtime,
            tokenizer=tokenizer,
        )
        texts = [
            f"{prompt(record.instruction, record.input)}{tokenizer.decode(ids)}\n"
            f"(expected: {record.output})"
            for (record, _), ids in zip(self._chosen, answers, strict=True)
        ]
        return "\n\n---\n\n".join(texts) + "\n"


def metrics(history: History, records: int, too_long: int, dropped: int) -> dict[str, Any]:
    """The metrics of a completed run.

    Args:
        records: training records.
        too_long: those of them that were longer than the context.
        dropped: records that were not used.
    """
    return {
        "val_loss": history.best["val_loss"],
        "val_loss_before": history.evaluations[0]["val_loss"],
        "best_step": history.best["step"],
        "train_records": records,
        "records_too_long": too_long,
        "records_left_out": dropped,
        "train_tokens": history.tokens,
    }


def facts(
    params: FinetuneParams, history: History, tokenizer: Tokenizer, parent: str
) -> dict[str, Any]:
    """Where a model came from, for its ``training.json``; ``parent``: digest of the base model."""
    return {
        "stage": "finetune",
        "parent": parent,
        "prompt": "alpaca",
        "tokens_seen": history.tokens,
        "val_loss": history.best["val_loss"],
        "tokenizer": tokenizer.fingerprint,
        "params": params.model_dump(),
    }
