"""Instruction records become batches (tutorial part 5; Taori et al. 2023, "Alpaca").

One renderer makes the prompt, response header included, for finetuning, generation and judging.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal

import torch

from gpt2.core.errors import UserError
from gpt2.core.params import Params, parse
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.data.sources.records import InstructionRecord, sample_records
from gpt2.data.tokenizer.bpe import Tokenizer

log = logging.getLogger(__name__)


class InstructionParams(Params):
    """How records become training examples."""

    loss_on: Literal["response", "all"] = "response"
    """Which tokens are learned."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """What happens to a record longer than the context: its response is cut (and then has no end
    token, for it does not end there), or it is left out. Left out in any case if not one token of
    the response fits."""


def load_records(path: Path) -> list[InstructionRecord]:
    """All records of a JSON Lines file.

    Raises:
        UserError: the file is missing or not UTF-8, or lines are not records (all are listed).
    """
    try:
        # Not `splitlines`: to it, characters that a record may hold (U+2028) end a line as well.
        lines = StringIO(path.read_text(encoding="utf-8")).readlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the stage that writes it: dvc repro") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    records, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse(InstructionRecord, json.loads(line), f"line {number}"))
        except UserError as error:
            problems.append(str(error))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: not JSON ({error})")
    if problems:
        raise UserError(f"{path}: {len(problems)} bad record(s)\n" + "\n".join(problems[:20]))
    return records


def prompt(instruction: str, input: str) -> str:
    """Alpaca's prompt with the response header: what follows is the response, nothing else."""
    context = f"\n\n### Input:\n{input}" if input else ""
    return (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{instruction}{context}\n\n### Response:\n"
    )


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its response, and how many of them are prompt."""

    ids: list[int]
    n_prompt: int


def encode(
    record: InstructionRecord,
    tokenizer: Tokenizer,
    context_length: int,
    too_long: Literal["truncate", "drop"],
) -> tuple[Example | None, bool]:
    """The example of a record, None if it is left out; and whether it was too long."""
    # Apart, so that the ids of the prompt are the same here and when a response is generated.
    prompt_ids = tokenizer.encode(prompt(record.instruction, record.input))
    ids = [*prompt_ids, *tokenizer.encode(record.output), tokenizer.end_of_text]
    # The last id is only a target, so one more than the context fits.
    if len(ids) <= context_length + 1:
        return Example(ids, len(prompt_ids)), False
    if too_long == "drop" or len(prompt_ids) > context_length:
        return None, True
    return Example(ids[: context_length + 1], len(prompt_ids)), True


def collate(examples: Sequence[Example], loss_on: Literal["response", "all"]) -> Batch:
    """Examples end to end: nothing is padding, so nothing is computed in vain."""
    inputs: list[int] = []
    targets: list[int] = []
    for example in examples:
        first = example.n_prompt if loss_on == "response" else 1  # the first id that is learned
        inputs += example.ids[:-1]
        targets += [IGNORE_INDEX] * (first - 1) + example.ids[first:]
    lengths = [len(example.ids) - 1 for example in examples]
    return Batch(torch.tensor([inputs]), torch.tensor([targets]), torch.tensor(lengths))


class InstructionBatches:
    """Batches in random order; a pure function of seed, epoch and step."""

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        micro_batch_size: int | None,
        seed: int,
        collate: Callable[[Sequence[Example]], Batch],
    ) -> None:
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        self._micro = micro_batch_size or batch_size
        self._collate = collate
        self._epoch, self._order = -1, list[int]()
        self.steps_per_epoch = -(-len(examples) // batch_size)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of an optimizer step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epoch = epoch
            self._order = torch.randperm(len(self._examples), generator=generator).tolist()
        start = index * self._batch_size
        rows = self._order[start : start + self._batch_size]
        return [
            self._collate([self._examples[row] for row in rows[start : start + self._micro]])
            for start in range(0, len(rows), self._micro)
        ]


def evaluation_batches(
    examples: Sequence[Example], batch_size: int, collate: Callable[[Sequence[Example]], Batch]
) -> list[Batch]:
    """Every example once."""
    return [
        collate(examples[start : start + batch_size])
        for start in range(0, len(examples), batch_size)
    ]


def choose_records(
    records: list[InstructionRecord],
    limits: Mapping[str, int],
    max_validation: int | None,
    seed: int,
) -> list[InstructionRecord]:
    """The records to train and to validate on, drawn by their hash.

    Args:
        limits: most training records of a kind; of a kind that is not named: all.
        max_validation: most validation records of each kind; None: all.
    """
    kinds = {record.kind for record in records}
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
            ("validation", max_validation),
        ):
            of_kind = [record for record in records if (record.kind, record.split) == (kind, split)]
            chosen += sample_records(of_kind, most, seed)
    return chosen


def examples_of(
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
