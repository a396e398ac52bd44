"""The corpus on its way to token shards: documents, their split, their tokens (tutorial part 1)."""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from tqdm import tqdm

from gpt2.core.errors import UserError
from gpt2.core.params import NonNegative, Params, Positive
from gpt2.data.tokenizer.bpe import Tokenizer

FEW_DOCUMENTS = 100

BATCH_CHARACTERS = 500_000
"""About so many are encoded by one call."""

MOST_WORKERS = 8
"""More threads would wait for the one that reads."""

VOCABULARY_BYTES = 32 * 2**20
"""Of the corpus, about so much trains the tokenizer: each different word costs it 0.6 to 1 KB of
memory, text without spaces 0.1 to 0.16 KB a byte. Of the starter's 26 MB, half would do: 0.12 %
more tokens with 8,192 entries, 0.43 % with 50,257."""

LONG_PART = 10_000
"""Characters: a smaller part of a text would tell too little of it."""


class TokenizeParams(Params):
    """How the corpus becomes shards."""

    split: Literal["auto", "hash", "position"] = "auto"
    """Which text validates. hash: documents drawn by a hash of seed and text, so that neither their
    order nor a repeated one matters; position: the last characters of each document; auto: hash,
    but position where there are fewer than `FEW_DOCUMENTS`."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Of the documents, or of each document's characters."""
    seed: NonNegative
    shard_tokens: Positive
    """Tokens in a shard file; so many of each split are in memory while they are written."""


class Document(BaseModel):
    """A line of the corpus."""

    name: str
    text: str


def read_documents(path: Path, purpose: str) -> Iterator[str]:
    """The texts of a corpus one by one, with a progress line that says what for.

    Raises:
        UserError: a line is not UTF-8, not JSON or not a `Document`, or there is none.
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
                yield Document.model_validate_json(line).text
            except ValidationError as error:
                raise UserError(f"{path}, line {number}: {_describe(error)}") from error
            progress.update(len(line))
    if not number:
        raise UserError(f"{path}: no documents. Check the section corpus of the parameters")


def _describe(error: ValidationError) -> str:
    return "; ".join(
        " ".join([*(f"'{part}':" for part in problem["loc"]), problem["msg"]])
        for problem in error.errors()
    )


def choose_split(corpus: Path, params: TokenizeParams) -> Literal["hash", "position"]:
    """How the documents of a corpus, one a line, are split."""
    if params.split != "auto":
        return params.split
    with corpus.open("rb") as lines:
        few = sum(1 for _ in islice(lines, FEW_DOCUMENTS)) < FEW_DOCUMENTS
    return "position" if few else "hash"


def split_documents(
    texts: Iterable[str], params: TokenizeParams, split: Literal["hash", "position"]
) -> Iterator[tuple[str, str]]:
    """(split, text) pairs. Every text's place depends on itself and the parameters alone."""
    for text in texts:
        if split == "position":
            end = int(len(text) * (1 - params.val_fraction))
            yield "train", text[:end]
            yield "validation", text[end:]
        else:
            yield ("validation" if draw(params.seed, text) < params.val_fraction else "train"), text


def draw(seed: int, text: str) -> float:
    """A number in [0, 1) that the two decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:6], "big") / 2**48


def share_of(texts: Iterable[str], share: float, seed: int) -> Iterator[str]:
    """About ``share`` of the characters: short texts are drawn, long ones give their beginning."""
    for text in texts:
        part = int(share * len(text))
        if part >= LONG_PART:
            yield text[:part]
        elif draw(seed + 1, text) < share:  # another draw than the one for validation
            yield text


def encode(
    pieces: Iterable[tuple[str, str]], tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(split, row of documents) pairs for `write_shards` out of (split, text) pairs.

    Each split keeps its order, whatever the number of threads, and only a few rows are at work.
    """
    # Not an executor: its threads would finish all that is at work before Ctrl-C takes effect.
    with ThreadPool(workers) as pool:
        at_work: deque[tuple[str, AsyncResult[NDArray[Any]]]] = deque()
        for split, texts in batches(pieces):
            at_work.append((split, pool.apply_async(tokenizer.encode_documents, (texts,))))
            if len(at_work) > 2 * workers:
                split, row = at_work.popleft()
                yield split, row.get()
        for split, row in at_work:
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
