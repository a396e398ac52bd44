"""A real judge for tests: random weights, fast to load, about 10 ms per judgement."""

from pathlib import Path

import pytest

from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
from tests.tiny_llama import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "model.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="session")
def judge(tiny_model: Path) -> LlamaCppJudge:
    return LlamaCppJudge(tiny_model, threads=1, evaluation=LlamaEvalParams(seed=1))
