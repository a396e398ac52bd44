"""Token shards on real files: what is written, what is read, what damage is noticed."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpt2.core.errors import UserError
from gpt2.core.files import MANIFEST, new_directory, read_manifest
from gpt2.data.shards import Tokens, token_type, write_shards
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.tokenizer.vocabulary import BYTES
from gpt2.data.train_bpe import train_bpe
from tests.gpt2.data.shard_texts import SHARD, TEXTS, row, split_of, write


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
