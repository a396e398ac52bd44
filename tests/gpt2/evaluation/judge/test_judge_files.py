"""The files that the download stage fetches for a judge, and its check of servers."""

import logging

import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.evaluation.judge import judge_files
from gpt2.evaluation.judge.params import JudgeParams
from tests.fake_ollama import serving_ollama
from tests.gpt2.evaluation.judge.servers import free_port


def fetch(section: dict[str, object], place) -> list[str]:
    """Fetch, and return the names of the files."""
    directory = place / "judge"
    directory.mkdir()
    judge_files.fetch(parse(JudgeParams, section, "judge"), directory, place, place / "cache")
    return [path.name for path in directory.iterdir()]


def test_a_file_is_copied(tmp_path):
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    assert fetch({"backend": "llamacpp", "model": {"file": "own.gguf"}}, tmp_path) == ["model.gguf"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"own\.gguf: no such file"):
        fetch({"backend": "llamacpp", "model": {"file": "own.gguf"}}, tmp_path)


def test_a_server_is_only_checked(tmp_path, caplog):
    with serving_ollama() as server, caplog.at_level(logging.WARNING):
        assert fetch({"backend": "ollama", "host": server.address}, tmp_path) == []
    assert caplog.messages == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"backend": "ollama", "host": "{server}", "model": "phi3"}, "ollama pull phi3"),
        ({"backend": "ollama", "host": "127.0.0.1:{port}"}, "ollama serve"),
        ({"backend": "openai", "base_url": "http://127.0.0.1:{port}/v1"}, "no server answers"),
        ({"backend": "openai", "base_url": "http://x/v1", "api_key_env": "NO_KEY"}, "NO_KEY"),
    ],
)
def test_a_missing_server_is_only_a_warning(tmp_path, caplog, section, reason):
    with serving_ollama() as server, caplog.at_level(logging.WARNING):
        places = {"server": server.address, "port": free_port()}
        filled = {key: value.format(**places) for key, value in section.items()}
        assert fetch({"model": "llama3", **filled}, tmp_path) == []
    (message,) = caplog.messages
    assert reason in message
    assert "llama3-eval will need it" in message
