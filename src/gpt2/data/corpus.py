"""The corpus on its way to token shards: documents, their split, their tokens (tutorial part 1)."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from tqdm import tqdm

from gpt2.core.errors import UserError
from gpt2.core.params import NonNegative, Params, Positive
from gpt2.data.records import unit_hash
from gpt2.data.tokenizer.bpe import Tokenizer

FEW_DOCUMENTS = 100

BATCH_CHARACTERS = 500_000
"""About the number of characters that one call encodes."""

MAX_WORKERS = 8
"""More threads would wait for the one that reads."""

VOCABULARY_BYTES = 32 * 2**20
"""About the size of the text that trains the tokenizer. Each different word costs 0.6 to 1 KB of
memory, text without spaces 0.1 to 0.16 KB per byte. Half of the starter's 26 MB would be enough:
0.12 % more tokens with 8,192 entries, 0.43 % with 50,257."""

LONG_PART = 10_000
"""Characters: a shorter part of a text would not represent it."""


class TokenizeParams(Params):
    """How the corpus becomes shards."""

    split: Literal["auto", "hash", "position"] = "auto"
    """Which text is for validation. hash: documents drawn by a hash of seed and text, independent
    of order and repetitions; position: the last characters of each document; auto: hash, or
    position if there are fewer than `FEW_DOCUMENTS`."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Fraction of the documents, or of the characters of each document."""
    seed: NonNegative
    shard_tokens: Positive
    """Tokens per shard file. Memory holds this many of each split while they are written."""


class SplitRule(NamedTuple):
    """How documents are divided into train and validation; see `TokenizeParams`."""

    by: Literal["hash", "position"]
    val_fraction: float
    seed: int


def split_rule(corpus: Path, params: TokenizeParams) -> SplitRule:
    """The rule for a corpus file with one document per line; here ``auto`` is decided."""
    by = params.split
    if by == "auto":
        with corpus.open("rb") as lines:
            few = sum(1 for _ in islice(lines, FEW_DOCUMENTS)) < FEW_DOCUMENTS
        by = "position" if few else "hash"
    return SplitRule(by, params.val_fraction, params.seed)


def read_documents(path: Path, purpose: str) -> Iterator[str]:
    """The texts of a corpus one by one, with a progress line that names the ``purpose``.

    Raises:
        UserError: a line is not UTF-8, not JSON or not a document, or the file is empty.
    """
    number = 0
    with (
        path.open("rb") as lines,
        tqdm(
            desc=purpose,
            total=path.stat().st_size,
            unit="B",
            unit_scale=True,
            delay=2,
            disable=None,
        ) as progress,
    ):
        for number, line in enumerate(lines, start=1):
            try:
                yield _DocumentLine.model_validate_json(line).text
            except ValidationError as error:
                raise UserError(f"{path}, line {number}: {_describe(error)}") from error
            progress.update(len(line))
    if not number:
        raise UserError(f"{path}: no documents. Check the section corpus of the parameters")


def split_documents(texts: Iterable[str], rule: SplitRule) -> Iterator[tuple[str, str]]:
    """(split, text) pairs. The split of a text depends only on the text and the rule."""
    for text in texts:
        if rule.by == "position":
            end = int(len(text) * (1 - rule.val_fraction))
            yield "train", text[:end]
            yield "validation", text[end:]
        else:
            held_out = unit_hash(text, rule.seed) < rule.val_fraction
            yield ("validation" if held_out else "train"), text


def vocabulary_texts(corpus: Path, rule: SplitRule) -> Iterator[str]:
    """The texts that train a tokenizer: about `VOCABULARY_BYTES` of the train split."""
    pieces = split_documents(read_documents(corpus, "training text"), rule)
    train = (text for split, text in pieces if split == "train")
    share = min(1.0, VOCABULARY_BYTES / max(1, corpus.stat().st_size))
    return sample_texts(train, share, rule.seed)


def sample_texts(texts: Iterable[str], share: float, seed: int) -> Iterator[str]:
    """About ``share`` of all characters: random short texts, and the beginnings of long ones."""
    for text in texts:
        part = int(share * len(text))
        if part >= LONG_PART:
            yield text[:part]
        elif unit_hash(text, seed + 1) < share:  # independent of the draw for validation
            yield text


def encode(
    pieces: Iterable[tuple[str, str]], tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Encode (split, text) pairs into (split, row of documents) pairs for `write_shards`.

    Each split keeps its order for any number of threads. Memory holds only a few rows at a time.
    """
    # Not an executor: its threads would finish all queued work before Ctrl-C takes effect.
    with ThreadPool(workers) as pool:
        pending: deque[tuple[str, AsyncResult[NDArray[Any]]]] = deque()
        for split, texts in batches(pieces):
            pending.append((split, pool.apply_async(tokenizer.encode_documents, (texts,))))
            if len(pending) > 2 * workers:
                split, row = pending.popleft()
                yield split, row.get()
        for split, row in pending:
            yield split, row.get()


def batches(pieces: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """(split, texts) pairs of `BATCH_CHARACTERS` or a little more; the last ones have less."""
    texts: dict[str, list[str]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    for split, text in pieces:
        texts[split].append(text)
        sizes[split] += len(text)
        if sizes[split] >= BATCH_CHARACTERS:
            del sizes[split]
            yield split, texts.pop(split)
    yield from texts.items()


def summary(n_vocab: int, splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of the written splits.

    ``bytes_per_token`` does not count the ``<|endoftext|>`` between documents.

    Args:
        n_vocab: number of entries of the vocabulary.
        splits: facts of each split, from `write_shards`.
    """
    tokens, documents, text_bytes = (
        sum(split[key] for split in splits.values())
        for key in ("tokens", "documents", "text_bytes")
    )
    keys = ("tokens", "documents", "text_bytes", "truncated")
    return {
        "vocab_size": n_vocab,
        **{name: {key: split[key] for key in keys} for name, split in splits.items()},
        "bytes_per_token": text_bytes / (tokens - documents),
    }


class _DocumentLine(BaseModel):
    """A line of the corpus file."""

    name: str
    text: str


def _describe(error: ValidationError) -> str:
    return "; ".join(
        " ".join([*(f"'{part}':" for part in problem["loc"]), problem["msg"]])
        for problem in error.errors()
    )
