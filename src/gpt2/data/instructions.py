"""Instruction records become batches (tutorial part 5; Taori et al. 2023, "Alpaca").

`prompt` renders the prompt, including the response header, for finetuning, generation and judging.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gpt2.core.errors import UserError
from gpt2.core.params import Params, parse
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.data.records import InstructionRecord, Split, sample_records
from gpt2.data.tokenizer.bpe import Tokenizer

log = logging.getLogger(__name__)


class InstructionParams(Params):
    """How records become training examples."""

    loss_on: Literal["response", "all"] = "response"
    """Tokens with a loss."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """What happens to a record longer than the context. truncate: its response is truncated, and
    then has no end token. drop: the record is dropped. It is dropped in any case if no token of the
    response fits."""


@dataclass(frozen=True)
class Example:
    """A tokenized prompt with its response."""

    ids: list[int]
    n_prompt: int
    """Number of ids that belong to the prompt."""


def load_records(path: Path) -> list[InstructionRecord]:
    """All records of a JSON Lines file.

    Raises:
        UserError: the file is missing or not UTF-8, or lines are not records (with a list).
    """
    try:
        # Not `splitlines`, which also splits at characters that a record may contain (U+2028).
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


def choose_records(
    records: Sequence[InstructionRecord],
    train_limits: Mapping[str, int],
    max_validation: int | None,
    seed: int,
) -> list[InstructionRecord]:
    """The records for training and validation, sampled by the hash of their content.

    Args:
        records: records of all splits.
        train_limits: largest number of training records of a kind; there is no limit for other
            kinds.
        max_validation: largest number of validation records of each kind; None: no limit.
        seed: seed of the sample.

    Returns:
        The chosen records by kind: first the kinds with limits, in their order, then the others by
        name. In each kind the training records precede those for validation.
    """
    kinds = {record.kind for record in records}
    if unknown := sorted(train_limits.keys() - kinds):
        log.info(
            "finetune.train_records: there are no records of kind %s; kinds are %s",
            ", ".join(unknown),
            ", ".join(sorted(kinds)),
        )
    ordered = [
        *(kind for kind in train_limits if kind in kinds),
        *sorted(kinds - train_limits.keys()),
    ]
    chosen: list[InstructionRecord] = []
    for kind in ordered:
        limits = {"train": train_limits.get(kind), "validation": max_validation}
        for split, limit in limits.items():
            candidates = [r for r in records if (r.kind, r.split) == (kind, split)]
            chosen += sample_records(candidates, limit, seed)
    return chosen


def prompt(instruction: str, input: str) -> str:
    """Alpaca's prompt. It ends with the response header, so only the response follows."""
    context = f"\n\n### Input:\n{input}" if input else ""
    return (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{instruction}{context}\n\n### Response:\n"
    )


class EncodedSplit(NamedTuple):
    """The training examples of a split."""

    examples: list[Example]
    too_long: int
    """Number of records longer than the context."""
    dropped: int
    """Number of records without an example."""


def encode_split(
    records: Iterable[InstructionRecord],
    split: Split,
    tokenizer: Tokenizer,
    context_length: int,
    too_long: Literal["truncate", "drop"],
) -> EncodedSplit:
    """The examples of all records of a split.

    Args:
        records: records of any split.
        split: the split to encode.
        tokenizer: that of the model.
        context_length: that of the model.
        too_long: see `InstructionParams`.

    Raises:
        UserError: no record fits.
    """
    encoded = [
        encode(record, tokenizer, context_length, too_long)
        for record in records
        if record.split == split
    ]
    examples = [example for example, _ in encoded if example]
    if not examples:
        raise UserError(
            f"no record of the {split} split fits the context of {context_length} tokens. "
            "Give more records, or finetune a model with a longer context"
        )
    long = sum(is_long for _, is_long in encoded)
    return EncodedSplit(examples, long, len(encoded) - len(examples))


def encode(
    record: InstructionRecord,
    tokenizer: Tokenizer,
    context_length: int,
    too_long: Literal["truncate", "drop"],
) -> tuple[Example | None, bool]:
    """The example of a record, None if it is dropped; and whether the record was too long."""
    # Prompt and response are encoded separately, so that the ids of the prompt are the same as in
    # generation.
    prompt_ids = tokenizer.encode(prompt(record.instruction, record.input))
    ids = [*prompt_ids, *tokenizer.encode(record.output), tokenizer.end_of_text]
    # The last id is only a target, so one more id than the context fits.
    if len(ids) <= context_length + 1:
        return Example(ids, len(prompt_ids)), False
    if too_long == "drop" or len(prompt_ids) > context_length:
        return None, True
    return Example(ids[: context_length + 1], len(prompt_ids)), True


def collate(examples: Sequence[Example], loss_on: Literal["response", "all"]) -> Batch:
    """Pack examples into one row, without padding and its wasted computation."""
    inputs: list[int] = []
    targets: list[int] = []
    for example in examples:
        first = example.n_prompt if loss_on == "response" else 1  # the first id with a loss
        inputs += example.ids[:-1]
        targets += [IGNORE_INDEX] * (first - 1) + example.ids[first:]
    lengths = [len(example.ids) - 1 for example in examples]
    return Batch(torch.tensor([inputs]), torch.tensor([targets]), torch.tensor(lengths))


class InstructionBatches:
    """Training batches in random order: call it with a step, from 0, in any order.

    A batch is a pure function of seed and step.

    Args:
        examples: the training examples.
        batch_size: examples per optimizer step.
        micro_batch_size: examples per forward and backward pass; None: ``batch_size``.
        seed: seed of the order, which is another one in each epoch.
        collate: makes a batch from examples.
    """

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
    """Batches with every example once, in order."""
    return [
        collate(examples[start : start + batch_size])
        for start in range(0, len(examples), batch_size)
    ]
