"""A real judge that fits into a test: random weights, a moment to load, some 10 ms a judgement."""

from pathlib import Path

import pytest

from gpt2.judge.llamacpp import LlamaCppJudge
from tests.tiny_llama import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "model.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="session")
def judge(tiny_model: Path) -> LlamaCppJudge:
    return LlamaCppJudge(tiny_model, n_ctx=2048, max_tokens=16, temperature=0.0, seed=1, threads=1)
