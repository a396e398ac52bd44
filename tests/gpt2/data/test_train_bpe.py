"""Training of a vocabulary, compared with the `tokenizers` library; its time and messages."""

import base64
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from tokenizers import Tokenizer as Peer
from tokenizers import models, pre_tokenizers, trainers

from gpt2.core.errors import UserError
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import LONGEST_WORD, train_bpe

TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n")
]
TRAIN = """
import sys, json, random, pathlib, click
from gpt2.data.train_bpe import train_bpe
paths = sorted(pathlib.Path(click.__file__).parent.glob("*.py"))
random.Random(sys.argv[1]).shuffle(paths)
print(train_bpe((path.read_text(encoding="utf-8") for path in paths), 1000).fingerprint)
"""


def test_training_depends_on_neither_threads_nor_order() -> None:
    def train(seed: int, **environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", TRAIN, str(seed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    one = train(1, RAYON_NUM_THREADS="1", PYTHONHASHSEED="1")
    assert one == train(1, RAYON_NUM_THREADS="4", PYTHONHASHSEED="2")
    assert one == train(2, TOKENIZERS_PARALLELISM="false")


def uncut_merges(texts: list[str], vocab_size: int) -> list[list[str]]:
    peer = Peer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return json.loads(peer.to_str())["model"]["merges"]


def merges_of(tokenizer: Tokenizer) -> list[list[str]]:
    return [line.split(" ") for line in tokenizer.files["merges.txt"].splitlines()[1:]]


def test_words_up_to_the_longest_are_trained_whole() -> None:
    samples = [*TEXTS, "ab" * (LONGEST_WORD // 2) + " x", "é" * (LONGEST_WORD // 2), "-" * 133]
    assert merges_of(train_bpe(samples, 1001)) == uncut_merges(samples, 1000)
    longer = [*samples, "cde" * LONGEST_WORD]
    assert merges_of(train_bpe(longer, 1001)) != uncut_merges(longer, 1000)


def run_of(kind: str, length: int) -> str:
    """A text without spaces and punctuation, or of one such character alone."""
    rng = random.Random(5)
    match kind:
        case "one letter":
            return "a" * length
        case "DNA":
            return "".join(rng.choices("ACGT", k=length))
        case "base64":
            return base64.b64encode(rng.randbytes(length * 3 // 4)).decode()
        case "JSON":
            records = [{"id": n, "v": [rng.randrange(99)]} for n in range(length // 20)]
            return json.dumps(records, separators=(",", ":"))
        case "Thai":
            return "".join(chr(rng.randrange(0xE01, 0xE2F)) for _ in range(length))
        case "Chinese":
            return "".join(chr(0x4E00 + int(rng.expovariate(0.01))) for _ in range(length))
        case _:
            return kind * length


RUNS = [
    "one letter",
    "DNA",
    "base64",
    "JSON",
    "Thai",
    "Chinese",
    "7",
    "-",
    " ",
    "\n",
    "\u3000",
    "🙂",
]


@pytest.mark.parametrize("kind", RUNS)
def test_a_word_of_any_length_takes_time_with_its_length(kind: str) -> None:
    text = run_of(kind, 400_000)
    began = time.process_time()
    tokenizer = train_bpe([text], 600)
    ids = tokenizer.encode(text)
    assert time.process_time() - began < 15  # DNA took 60 s
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())


def test_training_logs_its_progress(caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.train_bpe.PLAIN_INTERVAL", 0.01)
    with caplog.at_level("INFO"):
        train_bpe([run_of("DNA", 100_000)], 400)
    assert "training the vocabulary: 0 s so far" in caplog.text


def test_a_failure_while_training_is_reported() -> None:
    def failing():
        yield "a text"
        raise UserError("line 2: no text")

    with pytest.raises(UserError, match="line 2"):
        train_bpe(failing(), 300)
    with pytest.raises((TypeError, UnicodeError)):
        train_bpe(["\ud83d"], 300)


def test_a_short_text_gives_a_small_vocabulary_and_a_warning(caplog) -> None:
    tokenizer = train_bpe(["the cat sat on the mat, the cat"], 8192)
    assert 256 < tokenizer.n_vocab < 300
    assert tokenizer.decode(tokenizer.encode("the dog")) == "the dog"
    assert f"only {tokenizer.n_vocab} entries; tokenizer.vocab_size asks for 8192" in caplog.text
