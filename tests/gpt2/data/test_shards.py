"""Token shards on real files: what is written, what damage is seen, what windows are read."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pytest
import torch

from gpt2.core.errors import UserError
from gpt2.core.files import MANIFEST, new_directory, read_manifest
from gpt2.data.batch import IGNORE_INDEX
from gpt2.data.shards import Tokens, token_type, write_shards
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.tokenizer.vocabulary import BYTES
from gpt2.data.train_bpe import train_bpe
from gpt2.data.windows import TrainingWindows, evaluation_batches, window_starts

TEXTS = [
    *(
        path.read_text(encoding="utf-8")
        for path in sorted(Path(click.__file__).parent.glob("*.py"))
    ),
    "naïve 中文 🙂",
    "x",
]
SHARD = 4096


def split_of(index: int) -> str:
    return "validation" if index % 4 == 0 else "train"


def write(directory: Path, tokenizer: Tokenizer, texts: list[str], shard_tokens: int) -> None:
    facts: dict[str, object] = {}
    rows = ((split_of(i), tokenizer.encode_documents([text])) for i, text in enumerate(texts))
    with new_directory(directory, facts) as new:
        facts |= write_shards(new, rows, tokenizer, shard_tokens)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 600)


@pytest.fixture(scope="module")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards") / "tokens"
    write(directory, tokenizer, TEXTS, SHARD)
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "tokens")


def row(tokenizer: Tokenizer, split: str) -> list[int]:
    """The split as it must be, put together the plain way."""
    return [
        token
        for index, text in enumerate(TEXTS)
        if split_of(index) == split
        for token in [tokenizer.end_of_text, *tokenizer.encode(text)]
    ]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_written_and_read(tokenizer: Tokenizer, written: Path, split: str) -> None:
    tokens = Tokens.open(written, split, tokenizer.fingerprint)
    texts = [text for index, text in enumerate(TEXTS) if split_of(index) == split]
    assert tokens.window(0, len(tokens)).tolist() == row(tokenizer, split)
    assert tokens.documents == len(texts)
    assert tokens.text_bytes == sum(len(text.encode()) for text in texts)
    assert tokens.vocab_size == tokenizer.n_vocab
    read = tokenizer.decode(tokens.window(0, len(tokens)).tolist())
    assert read == "".join(END_OF_TEXT + text for text in texts)


def test_manifest_counts_each_shard(tokenizer: Tokenizer, written: Path) -> None:
    manifest = read_manifest(written)
    assert manifest["schema"] == {"token": "uint16"}
    assert manifest["tokenizer"] == tokenizer.fingerprint
    for facts in manifest["splits"].values():
        assert len(facts["shards"]) > 2
        assert all(shard["tokens"] == SHARD for shard in facts["shards"][:-1])
        for key in ("tokens", "documents", "text_bytes"):
            assert facts[key] == sum(shard[key] for shard in facts["shards"])
        for shard in facts["shards"]:
            table = pa.ipc.open_file(written / shard["file"]).read_all()
            ids = table["token"].to_numpy()
            assert table.schema == pa.schema([("token", pa.uint16())])
            assert len(ids) == shard["tokens"]
            assert (ids == tokenizer.end_of_text).sum() == shard["documents"]
            assert tokenizer.token_bytes[ids].sum() == shard["text_bytes"]
    assert manifest["files"].keys() == {
        shard["file"] for facts in manifest["splits"].values() for shard in facts["shards"]
    }


def test_windows_are_views_of_the_file_but_across_shards(
    tokenizer: Tokenizer, written: Path
) -> None:
    allocated = pa.total_allocated_bytes()
    tokens = Tokens.open(written, "train")
    assert pa.total_allocated_bytes() == allocated
    whole = row(tokenizer, "train")
    inside, again = tokens.window(10, 100), tokens.window(50, 100)
    assert np.shares_memory(inside, again)
    assert not inside.flags.writeable
    for start, length in [(0, 1), (SHARD - 1, 2), (SHARD, SHARD), (5, 3 * SHARD), (0, len(whole))]:
        assert tokens.window(start, length).tolist() == whole[start : start + length]
    for start, length in [(-1, 2), (5, 0), (len(whole), 1), (0, len(whole) + 1)]:
        with pytest.raises(IndexError):
            tokens.window(start, length)


def test_documents_are_cut_at_the_limit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["a b c d", "é" * 9, "a", ""]
    documents = [tokenizer.encode(text) for text in texts]
    rows = [tokenizer.encode_documents(part) for part in (texts, texts[:1])]
    pairs = list(zip(("train", "validation"), rows, strict=True))
    facts: dict[str, object] = {}
    with new_directory(tmp_path / "tokens", facts) as new:
        facts |= write_shards(new, pairs, tokenizer, SHARD, max_document_tokens=4)
    tokens = Tokens.open(tmp_path / "tokens", "train")
    expected = [token for ids in documents for token in [tokenizer.end_of_text, *ids[:4]]]
    assert tokens.window(0, len(tokens)).tolist() == expected
    assert tokens.text_bytes == tokenizer.token_bytes[expected].sum()
    splits = read_manifest(tmp_path / "tokens")["splits"]
    assert [splits[name]["truncated"] for name in ("train", "validation")] == [
        sum(len(ids) > 4 for ids in documents),
        int(len(documents[0]) > 4),
    ]


def test_a_vocabulary_beyond_16_bits_is_written_as_uint32(tmp_path: Path) -> None:
    merges = [(left, right) for left, right in product(BYTES, BYTES)]
    ids = [*BYTES, *(left + right for left, right in merges), END_OF_TEXT]
    vocab = {token: rank for rank, token in enumerate(ids)}
    tokenizer = Tokenizer(json.dumps(vocab), "".join(f"{left} {right}\n" for left, right in merges))
    write(tmp_path / "tokens", tokenizer, ["ab", "ÿÿ"], SHARD)
    tokens = Tokens.open(tmp_path / "tokens", "train")
    assert tokens.window(0, 1).dtype == np.uint32
    assert tokens.window(0, 1).tolist() == [256 + 65536]
    assert token_type(65536) == np.uint16
    with pytest.raises(UserError, match="does not fit in shards of uint32"):
        token_type(2**32 + 1)


def test_writing_keeps_memory_flat(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = np.array([tokenizer.end_of_text] + [1] * 5000)

    def peak(rows: int, name: str) -> int:
        (tmp_path / name).mkdir()
        pairs = (("train" if i else "validation", row) for i in range(rows))
        tracemalloc.start()
        write_shards(tmp_path / name, pairs, tokenizer, shard_tokens=50_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1000, "long") < 1.2 * peak(50, "short")


def test_an_empty_split_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document falls into the validation split"):
        write_shards(tmp_path, [("train", np.ones(1, int))], tokenizer, SHARD)


def _swap(directory: Path) -> None:
    first, second = directory / "train/00000.arrow", directory / "train/00001.arrow"
    first.rename(directory / "swap")
    second.rename(first)
    (directory / "swap").rename(second)


def _cut(directory: Path) -> None:
    path = directory / "train/00001.arrow"
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(directory: Path) -> None:
    path = directory / "validation/00000.arrow"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "train/00001.arrow").unlink(), "train/00001.arrow: missing"),
        (
            lambda d: shutil.copy(d / "train/00000.arrow", d / "train/00099.arrow"),
            "train/00099.arrow: not in the manifest",
        ),
        (_swap, "train/00000.arrow: sha256"),
        (_cut, "train/00001.arrow: sha256"),
        (_flip, "validation/00000.arrow: sha256"),
        (lambda d: (d / MANIFEST).unlink(), "no manifest.json"),
        (lambda d: shutil.rmtree(d), "no manifest.json"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], object], named: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=named):
        Tokens.open(copy, "train")


def test_stale_shards_are_named(tokenizer: Tokenizer, copy: Path, tmp_path: Path) -> None:
    write(tmp_path / "new", tokenizer, TEXTS[:-8], SHARD)
    shutil.copy(tmp_path / "new" / MANIFEST, copy)
    with pytest.raises(UserError, match=r"validation/00000\.arrow: sha256|not in the manifest"):
        Tokens.open(copy, "train")


def test_another_tokenizer_is_refused(written: Path) -> None:
    other = train_bpe(TEXTS, 500)
    with pytest.raises(UserError, match=f"another tokenizer .*{other.fingerprint[:12]}"):
        Tokens.open(written, "train", other.fingerprint)


def test_an_unknown_split_is_refused(written: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'"):
        Tokens.open(written, "test")


@pytest.mark.parametrize("context_length", [1, 2, 7, 64])
@pytest.mark.parametrize("extra", [1, 2, 50, 128, 1000])
def test_no_token_is_a_target_twice_in_an_epoch(context_length: int, extra: int) -> None:
    n_tokens = context_length + extra
    for epoch in range(20):
        starts = window_starts(n_tokens, context_length, seed=5, epoch=epoch)
        targets = (starts[:, None] + 1 + np.arange(context_length)).ravel()
        assert len(np.unique(targets)) == len(targets) >= n_tokens - 2 * context_length
        assert targets.min() >= 1
        assert targets.max() < n_tokens


def test_window_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return window_starts(10_000, 64, seed, epoch).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in range(4)}) == 8
    assert len({order(1, epoch)[0] % 64 for epoch in range(20)}) > 10  # the offset moves
    # Pinned: another order would change every training run.
    assert order(123, 0)[:4] == [9856, 6848, 5824, 5056]


def test_too_short_a_split_is_refused() -> None:
    assert window_starts(65, 64, seed=0, epoch=0).tolist() == [0]
    with pytest.raises(UserError, match="64 tokens, too few for one window of context_length 64"):
        window_starts(64, 64, seed=0, epoch=0)


def test_training_batches(tokenizer: Tokenizer, written: Path) -> None:
    tokens = Tokens.open(written, "train")
    windows = TrainingWindows(tokens, context_length=32, batch_size=8, seed=1)
    epoch = window_starts(len(tokens), 32, seed=1, epoch=0)
    whole = torch.tensor(row(tokenizer, "train"))
    assert windows.steps_per_epoch == len(epoch) / 8
    inputs, targets, _ = windows(2)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (8, 32)
    for place, start in enumerate(epoch[16:24].tolist()):
        assert inputs[place].equal(whole[start : start + 32])
        assert targets[place].equal(whole[start + 1 : start + 33])


def test_training_batches_go_on_into_the_next_epoch(written: Path) -> None:
    tokens = Tokens.open(written, "train")
    windows = TrainingWindows(tokens, context_length=1024, batch_size=8, seed=1)
    assert windows.steps_per_epoch % 1 != 0
    starts = np.concatenate([window_starts(len(tokens), 1024, 1, epoch) for epoch in range(3)])
    steps = list(range(len(starts) // 8))
    for step in [*reversed(steps), *steps]:  # any order gives the same batches
        for place, start in enumerate(starts[step * 8 : step * 8 + 8].tolist()):
            assert windows(step).inputs[place].tolist() == tokens.window(start, 1024).tolist()


def test_batch_size_does_not_change_the_order_of_windows(written: Path) -> None:
    tokens = Tokens.open(written, "train")
    eight = TrainingWindows(tokens, context_length=64, batch_size=8, seed=1)
    two = TrainingWindows(tokens, context_length=64, batch_size=2, seed=1)
    for step in (0, 7, 99):
        parts = [two(step * 4 + part).targets for part in range(4)]
        assert eight(step).targets.equal(torch.cat(parts))


@pytest.mark.parametrize(
    ("context_length", "batch_size"), [(32, 4), (100, 3), (1, 1000), (8192, 2)]
)
def test_evaluation_sees_every_token_once_and_every_byte(
    tokenizer: Tokenizer, written: Path, context_length: int, batch_size: int
) -> None:
    tokens = Tokens.open(written, "validation")
    whole = row(tokenizer, "validation")
    batches = list(evaluation_batches(tokens, context_length, batch_size))
    assert {batch.inputs.shape for batch in batches} == {(batch_size, context_length)}
    inputs = torch.cat([batch.inputs.flatten() for batch in batches])
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    assert targets.dtype == torch.int64
    assert inputs[: len(whole) - 1].tolist() == whole[:-1]
    assert targets[: len(whole) - 1].tolist() == whole[1:]
    assert (targets[len(whole) - 1 :] == IGNORE_INDEX).all()
    assert tokenizer.token_bytes[targets[targets != IGNORE_INDEX]].sum() == tokens.text_bytes
