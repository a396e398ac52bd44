"""Token ids on disk, and the windows of them that a model reads (tutorial chapter 2, data loading).

A split is one long row of tokens, each document led in by ``<|endoftext|>``, cut into Arrow files
of one column and one record batch, so that a memory-mapped file is a numpy array. The very first
token, the only one that is never a target, is such a lead-in: every byte of text is predicted, and
bits per byte are exact.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from gpt2.core.errors import UserError
from gpt2.core.files import MANIFEST, read_manifest
from gpt2.core.params import NonNegative, Params, Positive, parse
from gpt2.data.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and writing shards does without.
    from gpt2.data.batch import Batch

SPLITS = ("train", "validation")
COLUMN = "token"


class _Counts(Params):
    """Facts that a shard and a split have in common."""

    tokens: Positive
    documents: NonNegative
    text_bytes: NonNegative


class _Shard(_Counts):
    file: str


class _Split(_Counts):
    truncated: NonNegative
    shards: Annotated[list[_Shard], Field(min_length=1)]


class _Facts(Params):
    """What the manifest says of the shards, beside what a reader has no use for."""

    model_config = ConfigDict(extra="ignore")

    tokenizer: str
    vocab_size: Positive
    splits: dict[str, _Split]
    files: dict[str, Any]


def write_shards(
    directory: Path,
    rows: Iterable[tuple[str, NDArray[Any]]],
    tokenizer: Tokenizer,
    shard_tokens: int,
    max_document_tokens: int | None = None,
) -> dict[str, Any]:
    """Write (split, row) pairs as shards of ``shard_tokens``; memory holds one shard a split.

    A row has the tokens of whole documents, each led in by ``<|endoftext|>``
    (`Tokenizer.encode_documents`); of one longer than ``max_document_tokens`` only the beginning is
    written.

    Returns:
        Facts for the manifest: types, tokenizer, and tokens, documents and UTF-8 bytes of text per
        shard and split; documents cut short per split.

    Raises:
        UserError: a split has no document.
    """
    writers = {split: _Writer(directory, split, tokenizer, shard_tokens) for split in SPLITS}
    for split, tokens in rows:
        if max_document_tokens is not None:
            tokens, cut = shorten(tokens, tokenizer.end_of_text, max_document_tokens)
            writers[split].truncated += cut
        writers[split].add(tokens)
    return {
        "format": "Arrow IPC file, one record batch",
        "schema": {COLUMN: token_type(tokenizer.n_vocab).name},
        "layout": "each document is led in by <|endoftext|>; documents may go on in the next shard",
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.n_vocab,
        "splits": {split: writer.close() for split, writer in writers.items()},
    }


def token_type(n_vocab: int) -> np.dtype[Any]:
    """The narrower of uint16 and uint32 that holds every id.

    Raises:
        UserError: neither does.
    """
    for candidate in (np.dtype(np.uint16), np.dtype(np.uint32)):
        if n_vocab - 1 <= np.iinfo(candidate).max:
            return candidate
    raise UserError(f"a vocabulary of {n_vocab:,} entries does not fit in shards of uint32")


def shorten(tokens: NDArray[Any], end_of_text: int, limit: int) -> tuple[NDArray[Any], int]:
    """A row with at most ``limit`` tokens of each document; and how many documents had more."""
    starts = np.flatnonzero(tokens == end_of_text)
    lengths = np.diff(starts, append=len(tokens))  # lead-in included
    places = np.arange(len(tokens)) - np.repeat(starts, lengths)
    return tokens[places <= limit], int((lengths - 1 > limit).sum())


class _Writer:
    """The shards of one split, of which only the last may be short."""

    def __init__(
        self, directory: Path, split: str, tokenizer: Tokenizer, shard_tokens: int
    ) -> None:
        self._directory, self._split, self._tokenizer = directory, split, tokenizer
        self._buffer = np.empty(shard_tokens, token_type(tokenizer.n_vocab))
        self._filled = self._documents = self._text_bytes = self.truncated = 0
        self._shards: list[dict[str, Any]] = []
        (directory / split).mkdir()

    def add(self, tokens: NDArray[Any]) -> None:
        while len(tokens):
            part = tokens[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self._documents += int(np.count_nonzero(part == self._tokenizer.end_of_text))
            self._text_bytes += int(self._tokenizer.token_bytes[part].sum())
            if self._filled == len(self._buffer):
                self._flush()
            tokens = tokens[len(part) :]

    def _flush(self) -> None:
        name = f"{self._split}/{len(self._shards):05d}.arrow"
        batch = pa.record_batch([pa.array(self._buffer[: self._filled])], names=[COLUMN])
        with pa.ipc.new_file(str(self._directory / name), batch.schema) as writer:
            writer.write_batch(batch)
        self._shards.append(
            {
                "file": name,
                "tokens": self._filled,
                "documents": self._documents,
                "text_bytes": self._text_bytes,
            }
        )
        self._filled = self._documents = self._text_bytes = 0

    def close(self) -> dict[str, Any]:
        """Write what is left; the facts of the split."""
        if self._filled:
            self._flush()
        if not self._shards:
            raise UserError(
                f"no document falls into the {self._split} split. "
                "Change tokenize.val_fraction, or use tokenize.split: position"
            )
        totals = ("tokens", "documents", "text_bytes")
        return {
            **{key: sum(shard[key] for shard in self._shards) for key in totals},
            "truncated": self.truncated,
            "shards": self._shards,
        }


class Tokens:
    """One split as one long row of tokens, memory-mapped.

    Attributes:
        documents: number of documents.
        text_bytes: UTF-8 bytes of their text, all of it targets of `evaluation_batches`.
        vocab_size: every token is below this.
    """

    def __init__(
        self, shards: Sequence[NDArray[Any]], documents: int, text_bytes: int, vocab_size: int
    ) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))
        self.documents, self.text_bytes, self.vocab_size = documents, text_bytes, vocab_size

    @classmethod
    def open(cls, directory: Path, split: str, tokenizer_fingerprint: str | None = None) -> Tokens:
        """Map the shards of a split, after checking every file against the manifest.

        Raises:
            UserError: a shard is missing, extra, stale, swapped, cut or changed, or the shards were
                written with another tokenizer than ``tokenizer_fingerprint``.
        """
        facts = parse(_Facts, read_manifest(directory), str(directory / MANIFEST))
        if split not in facts.splits:
            raise UserError(f"{directory / MANIFEST}: no split '{split}'. Run: dvc repro tokenize")
        if tokenizer_fingerprint not in (None, facts.tokenizer):
            raise UserError(
                f"{directory}: written with another tokenizer ({facts.tokenizer[:12]}) than "
                f"the one given ({str(tokenizer_fingerprint)[:12]}). Run: dvc repro tokenize"
            )
        of_split = facts.splits[split]
        if strange := {shard.file for shard in of_split.shards} - facts.files.keys():
            raise UserError(f"{directory / MANIFEST}: shards that are no files: {sorted(strange)}")
        dtype = token_type(facts.vocab_size)
        return cls(
            [_map(directory / shard.file, dtype, shard.tokens) for shard in of_split.shards],
            of_split.documents,
            of_split.text_bytes,
            facts.vocab_size,
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def window(self, start: int, length: int) -> NDArray[Any]:
        """Tokens ``start`` to ``start + length``, ``(length,)``.

        A read-only view of the file where one shard holds them all, else a copy.
        """
        end = start + length
        if not 0 <= start < end <= len(self):
            raise IndexError(f"window {start} to {end} in a split of {len(self)} tokens")
        parts = []
        for index in range(bisect_right(self._ends, start), bisect_left(self._ends, end) + 1):
            shard = self._shards[index]
            begin = self._ends[index] - len(shard)
            parts.append(shard[max(0, start - begin) : end - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _map(path: Path, dtype: np.dtype[Any], n_tokens: int) -> NDArray[Any]:
    """The tokens of a shard, without copying.

    Raises:
        UserError: it is not an Arrow file with ``n_tokens`` of this type in one record batch.
    """
    try:
        column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(COLUMN)
        column.validate()
        # Not `to_numpy`, which imports pandas: 0.3 s.
        tokens: NDArray[Any] = np.from_dlpack(column)
    except (pa.ArrowException, OSError, KeyError, BufferError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a shard of tokens ({error}). Run: dvc repro tokenize"
        ) from error
    if tokens.dtype != dtype or len(tokens) != n_tokens:
        raise UserError(
            f"{path}: {len(tokens):,} tokens of {tokens.dtype}, the manifest says {n_tokens:,} of "
            f"{dtype}. Run: dvc repro tokenize"
        )
    return tokens


def window_count(n_tokens: int, context_length: int) -> int:
    """Training windows of an epoch: the same in each, whatever its offset.

    Raises:
        UserError: the split is shorter than one window.
    """
    if n_tokens <= context_length:
        raise UserError(
            f"the split has {n_tokens:,} tokens, too few for one window of context_length "
            f"{context_length:,} and its next token. Use more text or a shorter context"
        )
    return max(1, (n_tokens - context_length) // context_length)


def window_starts(n_tokens: int, context_length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where the windows of an epoch begin, in training order: a pure function of its arguments.

    A window is ``context_length`` inputs and one more token, the last target, which is the next
    window's first input. So no token is a target twice in an epoch, and the offset drawn for each
    epoch cuts the text at other places every time.
    """
    count = window_count(n_tokens, context_length)
    random = np.random.default_rng([seed, epoch])
    offset = random.integers(min(context_length, n_tokens - count * context_length))
    return offset + context_length * random.permutation(count)


class TrainingWindows:
    """The endless sequence of training batches: call it with a step, from 0, in any order.

    Rows of consecutive steps run through the epochs' windows without a gap, so what a step trains
    on depends on the arguments alone; workers that share a step take different rows of its batch.
    """

    def __init__(self, tokens: Tokens, context_length: int, batch_size: int, seed: int) -> None:
        self._tokens, self._context_length, self._batch_size = tokens, context_length, batch_size
        self._per_epoch = window_count(len(tokens), context_length)
        # Two orders at hand: a batch may end one epoch and begin the next.
        self._starts = lru_cache(maxsize=2)(
            partial(window_starts, len(tokens), context_length, seed)
        )

    @property
    def steps_per_epoch(self) -> float:
        """Batches until every window has been used once."""
        return self._per_epoch / self._batch_size

    def __call__(self, step: int) -> Batch:
        """The batch of a step, ``(B, T)``."""
        rows = np.empty((self._batch_size, self._context_length + 1), np.int64)
        for row, index in enumerate(range(step * self._batch_size, (step + 1) * self._batch_size)):
            epoch, place = divmod(index, self._per_epoch)
            start = int(self._starts(epoch)[place])
            rows[row] = self._tokens.window(start, self._context_length + 1)
        return _batch(rows[:, :-1], rows[:, 1:])


def evaluation_batches(tokens: Tokens, context_length: int, batch_size: int) -> Iterator[Batch]:
    """The split in order, every token but the first a target exactly once; batches are ``(B, T)``.

    Where the last batch has no token left, its input is 0 and its target `IGNORE_INDEX`.
    """
    from gpt2.data.batch import IGNORE_INDEX

    shape = (batch_size, context_length)
    size = batch_size * context_length
    for start in range(0, len(tokens) - 1, size):
        window = tokens.window(start, min(size + 1, len(tokens) - start))
        inputs, targets = np.zeros(size, np.int64), np.full(size, IGNORE_INDEX, np.int64)
        inputs[: len(window) - 1], targets[: len(window) - 1] = window[:-1], window[1:]
        yield _batch(inputs.reshape(shape), targets.reshape(shape))


def _batch(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> Batch:
    import torch

    from gpt2.data.batch import Batch

    return Batch(torch.from_numpy(inputs).contiguous(), torch.from_numpy(targets).contiguous())
