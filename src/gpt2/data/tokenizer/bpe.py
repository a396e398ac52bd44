"""Byte-level byte pair encoding: text to token ids and back (tutorial chapter 2; GPT-2 paper, 2.2).

The vocabulary is GPT-2's own or one trained here. Both are stored in GPT-2's two files; tiktoken
encodes and decodes.
"""

import codecs
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from gpt2.core.errors import UserError
from gpt2.data.tokenizer import files as tokenizer_files
from gpt2.data.tokenizer.added_tokens import AddedTokens
from gpt2.data.tokenizer.files import CONFIG, END_OF_TEXT, MERGES, VOCAB, Special
from gpt2.data.tokenizer.vocabulary import end_id, fingerprint, merge_ranks, parse_merges

MANY_SPACES = 500_000
_MANY_SPACES = re.compile(rf"(?<![^\S\x1c-\x1f])[^\S\x1c-\x1f]{{{MANY_SPACES},}}")
"""A run of characters that the word pattern counts as white space: tiktoken fails at twice the
length."""


class Tokenizer:
    """Text to token ids and back.

    In GPT-2's vocabulary and those of `train_bpe` the ids are the 256 bytes, then the merges in
    their order, then ``<|endoftext|>``. Other vocabularies may have another order and more tokens:
    added tokens (padding, chat markers) are found in a text before the rest is encoded.
    ``<|endoftext|>`` in a text is ordinary text; only `end_of_text` gives its id.

    Args:
        vocab: text of ``vocab.json``, token to id.
        merges: text of ``merges.txt``, the pairs in the order in which they are merged.
        special: the special tokens.
        end: id of the token that ends a text, if it is a special one; None: the tokenizer's own.

    Raises:
        UserError: these do not describe one vocabulary.
    """

    def __init__(
        self,
        vocab: str,
        merges: str,
        special: Special = tokenizer_files.NO_SPECIAL,
        end: int | None = None,
    ) -> None:
        self.files = {VOCAB: vocab, MERGES: merges}
        """The two texts by the names of their files."""
        self.added = special.added
        added = {token.content: token_id for token_id, token in special.added.items()}
        ids = {**tokenizer_files.vocabulary(vocab), **added}
        ranks = merge_ranks(ids, parse_merges(merges), set(added))
        self.n_vocab = len(ids)
        self.end_of_text = end_id(ids, special, end)
        end_token = next(token for token, i in ids.items() if i == self.end_of_text)
        self.roles = {**special.roles, "eos_token": end_token}
        start = self.roles.get("bos_token")
        self.start_of_text = self.end_of_text if start is None else ids[start]
        """Stands before the first token where a text is empty."""
        beyond = {i: t for i, t in special.added.items() if t.content != END_OF_TEXT}
        self._finder = AddedTokens(beyond) if beyond else None
        merged = set(ranks.values())
        self._not_merged = {i: token.encode() for token, i in ids.items() if i not in merged}
        """Bytes of the tokens that no merge makes, by id."""
        self.token_bytes: NDArray[np.int64] = np.zeros(self.n_vocab, np.int64)
        """Length in bytes of the text of each id, ``(n_vocab,)``; 0 for the end of a text."""
        self.token_bytes[[*ranks.values()]] = [*map(len, ranks)]
        for token_id, token in self._not_merged.items():
            self.token_bytes[token_id] = len(token)
        self.token_bytes[self.end_of_text] = 0
        self.fingerprint = fingerprint(vocab, merges, special, beyond, self.roles)
        self._encodings = _ThreadEncodings(
            name=f"gpt2-{self.fingerprint[:12]}",
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: ids[END_OF_TEXT]} if END_OF_TEXT in ids else {},
        )

    @property
    def _encoding(self) -> tiktoken.Encoding:
        return self._encodings.current

    @classmethod
    def load(cls, directory: Path, end: int | None = None) -> "Tokenizer":
        """The tokenizer in a directory of this pipeline or of `transformers`.

        Args:
            directory: the files of a tokenizer or model.
            end: as in `Tokenizer`.

        Raises:
            UserError: a file is missing, damaged, or describes another encoding than GPT-2's.
        """
        try:
            return cls(*tokenizer_files.read(directory), end)
        except UserError as error:
            raise UserError(f"tokenizer in {directory}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write the two files unchanged, and the configuration with which `transformers` loads
        them."""
        for name, text in self.files.items():
            (directory / name).write_bytes(text.encode())
        config: dict[str, Any] = {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            **self.roles,
        }
        if self._finder:
            config["added_tokens_decoder"] = {
                str(token_id): token.model_dump() for token_id, token in sorted(self.added.items())
            }
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; ``<|endoftext|>`` in it is ordinary text.

        Raises:
            UserError: ``text`` holds a lone surrogate, which is no character and has no bytes.
        """
        # tiktoken would silently replace it by U+FFFD.
        _refuse_surrogates(text)
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        found = [text] if self._finder is None else self._finder.split(text)
        rows = [
            [part] if isinstance(part, int) else self._encoding.encode_ordinary(part)
            for piece in found
            for part in ([piece] if isinstance(piece, int) else _split_at_spaces(piece))
        ]
        return rows[0] if len(rows) == 1 else [token for row in rows for token in row]

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """Token ids of all ``texts`` in one row, each text preceded by ``<|endoftext|>``.

        Several threads can do this at once, because tiktoken releases the interpreter lock while it
        encodes. All texts go into one call: taking the lock back after each short text would undo
        the gain.

        Raises:
            UserError: as `encode`.
        """
        for text in texts:
            _refuse_surrogates(text)
        joined = END_OF_TEXT.join(["", *texts])
        plain = self._finder is None and self.roles["eos_token"] == END_OF_TEXT
        whole = plain and all(len(_split_at_spaces(text)) == 1 for text in texts)
        if whole and joined.count(END_OF_TEXT) == len(texts):
            return self._encoding.encode_to_numpy(
                joined, allowed_special={END_OF_TEXT}, disallowed_special=()
            )
        # A text contains <|endoftext|> as ordinary text, or is encoded in several parts.
        rows = [[self.end_of_text, *self._ids(text)] for text in texts]
        return np.array([token for row in rows for token in row], np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids.

        Bytes that are not UTF-8 (part of a character) become U+FFFD, as do ids that are not in the
        vocabulary (some models have more embeddings than tokens).
        """
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """`decode` in pieces as the ids arrive; a character comes with its last byte."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            if text := decoder.decode(self.bytes_of(token)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token id; those of U+FFFD if it is not in the vocabulary."""
        if token in self._not_merged:
            return self._not_merged[token]
        known = token < self.n_vocab
        return self._encoding.decode_single_token_bytes(token) if known else "\ufffd".encode()


class _ThreadEncodings(threading.local):
    """One tiktoken encoding per thread, so that threads do not slow each other down.

    Threads could share one, but its word pattern has a cache that belongs to the first thread. Two
    threads that match at once are then slower than one. A thread's encoding is built at its first
    use.
    """

    def __init__(self, **description: Any) -> None:
        self.current = tiktoken.Encoding(**description)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise UserError(
            f"character {error.start} of a text is the lone surrogate {found}, which UTF-8 cannot "
            "hold. Remove it, or replace it by U+FFFD"
        ) from error


def _split_at_spaces(text: str) -> list[str]:
    """``text``, cut before the last of very many spaces. No word of the pattern crosses a cut.

    Such a run without its last space is a word; the last space belongs to the word after it.
    """
    runs = _MANY_SPACES.finditer(text) if len(text) > MANY_SPACES else ()
    cuts = [run.end() - 1 for run in runs if run.end() < len(text)]
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
