"""How many instruction records finetuning and evaluation use, and how long they are in tokens.

Counted in the files of earlier runs if they exist; otherwise the most that the parameters allow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2.data.instructions import choose_records, encode, load_records
from gpt2.data.records import InstructionRecord
from gpt2.data.sources.package_instructions import PackageDocsInstructions
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.evaluation.responses import choose_test_records
from gpt2.model.config import GPT2Config
from gpt2.pipeline.earlier_runs import INSTRUCTIONS, TOKENIZER, EarlierRuns
from gpt2.pipeline.schemas import GPT2, Sections

KINDS = ("describe", "library", "name", "object")
"""Kinds of the instructions that are made from documentation."""
MEAN_TOKENS, LONGEST = 127, 300
"""Assumed tokens of a record with its prompt and padding: the mean of the starter profile's
records, and a guess of the longest."""


@dataclass(frozen=True)
class RecordCounts:
    """Records of each split, and the tokens of a training record."""

    train: float
    validation: float
    test: float
    mean_tokens: float = MEAN_TOKENS
    longest: int = LONGEST
    """Tokens of the longest record."""
    response_share: float = 1.0
    """Fraction of the tokens that belongs to responses."""
    basis: str = f"assumed: {MEAN_TOKENS} tokens per record, the longest {LONGEST}"


def record_counts(
    sections: Sections, runs: EarlierRuns, base: GPT2Config | None
) -> RecordCounts | None:
    """The counts for a profile; None if neither files nor parameters limit them.

    ``base`` is the configuration of the model that is finetuned.
    """
    if not runs.made("download"):
        return _upper_bounds(sections)
    records = load_records(runs.root / INSTRUCTIONS)
    return _counted(records, sections, _tokenizer_directory(sections, runs), base)


def _counted(
    records: list[InstructionRecord],
    sections: Sections,
    tokenizer_dir: Path | None,
    base: GPT2Config | None,
) -> RecordCounts:
    finetune, generation = sections.finetune, sections.generate_responses
    chosen = choose_records(
        records,
        finetune.train_records or {},
        finetune.max_validation_records,
        finetune.seed,
    )
    train = [record for record in chosen if record.split == "train"]
    validation = sum(record.split == "validation" for record in chosen)
    test = len(choose_test_records(records, generation.max_records, generation.seed))
    if tokenizer_dir is None or base is None:
        return RecordCounts(len(train), validation, test)
    tokenizer = Tokenizer.load(tokenizer_dir)
    encoded = [
        encode(record, tokenizer, base.context_length, finetune.too_long)[0] for record in train
    ]
    examples = [example for example in encoded if example]
    if not examples:
        return RecordCounts(0, validation, test, basis="no record fits the context")
    lengths = [len(example.ids) for example in examples]
    prompt_tokens = sum(example.n_prompt for example in examples)
    mean = sum(lengths) / len(lengths)
    return RecordCounts(
        *(len(examples), validation, test),
        mean_tokens=mean,
        longest=max(lengths),
        response_share=1 - prompt_tokens / sum(lengths),
        basis=f"{mean:.0f} tokens per record, the longest {max(lengths)}",
    )


def _tokenizer_directory(sections: Sections, runs: EarlierRuns) -> Path | None:
    """The directory of the base model's tokenizer; None if it does not exist yet."""
    if sections.finetune.base_model == GPT2:
        return runs.root / GPT2 if runs.made("download-gpt2-weights") else None
    return runs.root / TOKENIZER if runs.made("download", "tokenize") else None


def _upper_bounds(sections: Sections) -> RecordCounts | None:
    instructions, finetune = sections.instructions, sections.finetune
    limits = finetune.train_records or {}
    held_out = instructions.validation_fraction + instructions.test_fraction
    train = _upper_bound(sections, 1 - held_out, limits.get)
    validation = _upper_bound(
        sections, instructions.validation_fraction, lambda _: finetune.max_validation_records
    )
    test = _upper_bound(
        sections, instructions.test_fraction, lambda _: sections.generate_responses.max_records
    )
    if train is None or validation is None or test is None:
        return None
    return RecordCounts(train, validation, test)


def _upper_bound(
    sections: Sections, fraction: float, limit_of: Callable[[str], int | None]
) -> float | None:
    """Most records of a split, summed over all kinds; None if nothing limits them.

    The split has ``fraction`` of the records, and ``limit_of`` gives its limit for a kind.
    """
    instructions, total = sections.instructions, 0.0
    from_docs = isinstance(instructions, PackageDocsInstructions)
    for kind in KINDS if from_docs else ("instruction",):
        share = math.inf if instructions.limit is None else instructions.limit * fraction
        total += min(limit_of(kind) or math.inf, share)
    return None if math.isinf(total) else total
