"""Shards for the tests of this folder."""

import shutil
from pathlib import Path

import pytest

from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from tests.gpt2.data.shard_texts import SHARD, TEXTS, write


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 600)


@pytest.fixture(scope="session")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards") / "tokens"
    write(directory, tokenizer, TEXTS, SHARD)
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "tokens")
