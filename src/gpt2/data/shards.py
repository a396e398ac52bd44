"""Token ids on disk: Arrow files that are memory-mapped as numpy arrays.

A split is one long row of tokens in which ``<|endoftext|>`` precedes each document. It is divided
into Arrow files of one column and one record batch. The very first token, the only one that is
never a target, is such an ``<|endoftext|>``. So every byte of text is predicted, and bits per byte
are exact.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from gpt2.core.errors import UserError
from gpt2.core.files import MANIFEST, read_manifest
from gpt2.core.params import NonNegative, Params, Positive, parse
from gpt2.data.tokenizer.bpe import Tokenizer

SPLITS = ("train", "validation")
COLUMN = "token"


def write_shards(
    directory: Path,
    rows: Iterable[tuple[str, NDArray[Any]]],
    tokenizer: Tokenizer,
    shard_tokens: int,
    max_document_tokens: int | None = None,
) -> dict[str, Any]:
    """Write (split, row) pairs as shards; memory holds one shard per split.

    Args:
        directory: where the shards go, one subdirectory per split.
        rows: tokens of whole documents, each preceded by ``<|endoftext|>``
            (`Tokenizer.encode_documents`), with the name of their split.
        tokenizer: the one that encoded them.
        shard_tokens: tokens per shard.
        max_document_tokens: longer documents are truncated to this many tokens.

    Returns:
        Facts for the manifest: types and tokenizer; tokens, documents and UTF-8 bytes of text per
        shard and split; truncated documents per split.

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


class Tokens:
    """One split as one long row of tokens, memory-mapped.

    Attributes:
        documents: number of documents.
        text_bytes: UTF-8 bytes of their text, all of them targets in `evaluation_batches`.
        vocab_size: every token is below this.
    """

    def __init__(
        self, shards: Sequence[NDArray[Any]], documents: int, text_bytes: int, vocab_size: int
    ) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))
        self.documents, self.text_bytes, self.vocab_size = documents, text_bytes, vocab_size

    @classmethod
    def open(cls, directory: Path, split: str, tokenizer_fingerprint: str | None = None) -> Self:
        """Map the shards of a split, after checking every file against the manifest.

        Raises:
            UserError: a shard is missing, extra, stale, swapped, truncated or changed, or the
                shards were written with another tokenizer than ``tokenizer_fingerprint``.
        """
        facts = parse(_Facts, read_manifest(directory), str(directory / MANIFEST))
        if split not in facts.splits:
            raise UserError(f"{directory / MANIFEST}: no split '{split}'. Run: dvc repro tokenize")
        if tokenizer_fingerprint not in (None, facts.tokenizer):
            raise UserError(
                f"{directory}: written with another tokenizer ({facts.tokenizer[:12]}) than "
                f"the one given ({str(tokenizer_fingerprint)[:12]}). Run: dvc repro tokenize"
            )
        found = facts.splits[split]
        if unknown := {shard.file for shard in found.shards} - facts.files.keys():
            raise UserError(f"{directory / MANIFEST}: unknown shard files: {sorted(unknown)}")
        dtype = token_type(facts.vocab_size)
        return cls(
            [_map(directory / shard.file, dtype, shard.tokens) for shard in found.shards],
            found.documents,
            found.text_bytes,
            facts.vocab_size,
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def window(self, start: int, length: int) -> NDArray[Any]:
        """Tokens ``start`` to ``start + length``, ``(length,)``.

        A read-only view of the file if one shard holds them all, else a copy.
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


def token_type(n_vocab: int) -> np.dtype[Any]:
    """uint16 if it holds every id, else uint32.

    Raises:
        UserError: the vocabulary is too large for both.
    """
    for candidate in (np.dtype(np.uint16), np.dtype(np.uint32)):
        if n_vocab - 1 <= np.iinfo(candidate).max:
            return candidate
    raise UserError(f"a vocabulary of {n_vocab:,} entries does not fit in shards of uint32")


def shorten(tokens: NDArray[Any], end_of_text: int, limit: int) -> tuple[NDArray[Any], int]:
    """A row with at most ``limit`` tokens of each document, and how many documents had more."""
    starts = np.flatnonzero(tokens == end_of_text)
    lengths = np.diff(starts, append=len(tokens))  # including <|endoftext|>
    positions = np.arange(len(tokens)) - np.repeat(starts, lengths)
    return tokens[positions <= limit], int((lengths - 1 > limit).sum())


class _Writer:
    """Writes the shards of one split. Only the last may be shorter than the others."""

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
        """Write the remaining tokens; return the facts of the split."""
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


class _Counts(Params):
    """Counts of a shard or a split."""

    tokens: Positive
    documents: NonNegative
    text_bytes: NonNegative


class _Shard(_Counts):
    file: str


class _Split(_Counts):
    truncated: NonNegative
    shards: Annotated[list[_Shard], Field(min_length=1)]


class _Facts(Params):
    """The entries of the manifest that `Tokens` needs; others are ignored."""

    model_config = ConfigDict(extra="ignore")

    tokenizer: str
    vocab_size: Positive
    splits: dict[str, _Split]
    files: dict[str, Any]


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
            f"{path}: {len(tokens):,} tokens of type {tokens.dtype}; the manifest says "
            f"{n_tokens:,} of type {dtype}. Run: dvc repro tokenize"
        )
    return tokens
