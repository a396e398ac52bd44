"""Documents of a corpus: their splits, samples for the vocabulary, encoding in threads, metrics."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click
import pytest

from gpt2.core.files import digest, new_directory
from gpt2.data import corpus
from gpt2.data.corpus import (
    BATCH_CHARACTERS,
    FEW_DOCUMENTS,
    SplitRule,
    TokenizeParams,
    batches,
    encode,
    sample_texts,
    split_documents,
    split_rule,
    summary,
    vocabulary_texts,
)
from gpt2.data.records import Document, unit_hash, write_documents
from gpt2.data.shards import write_shards
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.train_bpe import train_bpe

TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n\n")
]


def test_any_number_of_threads_writes_the_same_bytes(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 512)
    texts = [*TEXTS * 12, f"a{END_OF_TEXT}b"]
    pieces = [("validation" if unit_hash(text, 1) < 0.2 else "train", text) for text in texts]
    assert len(list(batches(pieces))) > 8  # so some have to wait
    digests = set()
    for workers in (1, 2, 4):
        with new_directory(tmp_path / "tokens") as new:
            facts = write_shards(new, encode(pieces, tokenizer, workers), tokenizer, 300_000)
        digests.add(digest(tmp_path / "tokens"))
        assert len(facts["splits"]["train"]["shards"]) > 2
    assert len(digests) == 1


def test_only_a_few_batches_are_pending() -> None:
    read: list[str] = []

    def endless() -> Iterator[tuple[str, str]]:
        while True:
            read.append("a " * (BATCH_CHARACTERS // 2))
            yield "train", read[-1]

    rows = encode(endless(), train_bpe(TEXTS, 300), workers=2)
    for number in range(10):
        next(rows)
        assert len(read) <= number + 1 + 2 * 2
    rows.close()


@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
def test_a_share_of_the_texts_trains_the_tokenizer(share: float) -> None:
    long = "\n".join(TEXTS)
    texts = [*(f"{text}{n}" for n in range(20) for text in TEXTS), long]
    sampled = list(sample_texts(texts, share, seed=1))
    assert sum(map(len, sampled)) == pytest.approx(share * sum(map(len, texts)), rel=0.3)
    assert sampled[-1] == long[: int(share * len(long))]
    if share == 1:
        assert sampled == texts


def test_the_split_depends_on_the_text_alone() -> None:
    rule = SplitRule("hash", val_fraction=0.2, seed=1)
    once = dict(zip(TEXTS, split_documents(TEXTS, rule), strict=True))
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert once == dict(zip(shuffled, split_documents(shuffled, rule), strict=True))
    draws = [unit_hash(text, seed) for text in TEXTS for seed in range(10)]
    assert 0.47 < sum(draws) / len(draws) < 0.53


@pytest.mark.parametrize(
    ("split", "number", "expected"),
    [
        ("auto", FEW_DOCUMENTS - 1, "position"),
        ("auto", FEW_DOCUMENTS, "hash"),
        ("hash", 1, "hash"),
        ("position", FEW_DOCUMENTS, "position"),
    ],
)
def test_few_documents_are_split_by_position(
    tmp_path: Path,
    split: Literal["auto", "hash", "position"],
    number: int,
    expected: Literal["hash", "position"],
) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, [Document(str(n), f"text {n}") for n in range(number)])
    params = TokenizeParams(split=split, val_fraction=0.2, seed=1, shard_tokens=1)
    assert split_rule(path, params) == SplitRule(expected, 0.2, 1)


def test_documents_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    documents = [Document("a", "One\n\u2028é"), Document("b", "Two")]
    assert write_documents(path, documents) == {"documents": 2, "characters": 9}
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [item._asdict() for item in documents]
    assert list(corpus.read_documents(path, "test")) == [item.text for item in documents]


def test_the_vocabulary_is_trained_on_training_texts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rule = tmp_path / "documents.jsonl", SplitRule("hash", val_fraction=0.2, seed=1)
    write_documents(path, [Document("", text) for text in TEXTS])
    train = [text for text in TEXTS if unit_hash(text, 1) >= 0.2]
    assert list(vocabulary_texts(path, rule)) == train
    monkeypatch.setattr(corpus, "VOCABULARY_BYTES", path.stat().st_size // 2)
    half = list(vocabulary_texts(path, rule))
    assert all(any(text.startswith(part) for text in train) for part in half)
    assert sum(map(len, half)) == pytest.approx(sum(map(len, train)) / 2, rel=0.3)


def test_bytes_per_token_do_not_count_separators() -> None:
    counts = {"tokens": 12, "documents": 2, "text_bytes": 30, "truncated": 1, "shards": []}
    assert summary(512, {"train": counts, "validation": counts | {"truncated": 0}}) == {
        "vocab_size": 512,
        "train": {"tokens": 12, "documents": 2, "text_bytes": 30, "truncated": 1},
        "validation": {"tokens": 12, "documents": 2, "text_bytes": 30, "truncated": 0},
        "bytes_per_token": 3.0,
    }
