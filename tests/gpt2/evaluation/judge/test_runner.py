"""Finished judgements survive errors, damage and kill -9, and no prompt is sent twice."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.runner import counts, judgements
from gpt2.evaluation.judge.tasks import Task
from gpt2.evaluation.judge.verdict_log import cache_key

ROOT = Path(__file__).parents[4]


def tasks(count: int) -> list[Task]:
    return [Task(n, "sum", "finetuned", f"How good is {n * n} for {n}? " * 5) for n in range(count)]


def log_lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_each_judgement_is_on_disk_before_it_is_yielded(judge, tmp_path):
    log = tmp_path / "runs" / "log.jsonl"
    for finished, judgement in enumerate(judgements(tasks(5), judge, log), start=1):
        lines = log_lines(log)
        assert len(lines) == finished
        assert lines[-1]["reply"] == judgement.reply
        assert judgement.judge == judge.digest
        assert (judgement.status, judgement.reply) == ("scored", f'{{"score": {judgement.score}}}')


def test_a_rerun_asks_only_for_what_is_new(judge, tmp_path):
    log = tmp_path / "log.jsonl"
    first = list(judgements(tasks(4), judge, log))
    written = log.read_bytes()
    assert list(judgements(tasks(4), judge, log)) == first
    assert log.read_bytes() == written
    assert list(judgements(tasks(6), judge, log))[:4] == first
    assert log.read_bytes().startswith(written)
    assert len(log_lines(log)) == 6


def test_one_prompt_of_two_tasks_is_sent_once_and_counted_twice(judge, tmp_path):
    log = tmp_path / "log.jsonl"
    (task,) = tasks(1)
    judged = list(judgements([task, task], judge, log))
    assert counts(judged)["n_total"] == 2
    assert len(log_lines(log)) == 1


def test_invalid_and_failed_ones_are_counted_and_only_the_failed_are_asked_again(
    tiny_model, tmp_path
):
    # Five tokens are too few for a whole reply; the long prompt does not fit into the context.
    judge = LlamaCppJudge(tiny_model, 1, LlamaEvalParams(n_ctx=256, max_tokens=5))
    log = tmp_path / "log.jsonl"
    questions = [
        Task(0, "sum", "base", "Short."),
        Task(1, "sum", "base", "Long. " * 200),
        Task(2, "sum", "base", "Short too."),
    ]
    judged = list(judgements(questions, judge, log))
    assert [judgement.status for judgement in judged] == ["invalid", "error", "invalid"]
    assert counts(judged) == {"n_total": 3, "scored": 0, "invalid": 2, "error": 1}
    assert [judgement.score for judgement in judged] == [None] * 3
    assert judged[0].reply == '{"sco'
    assert "context size" in judged[1].error
    assert list(judgements(questions, judge, log)) == judged
    assert [line["key"] for line in log_lines(log)].count(cache_key(judge, "Long. " * 200)) == 2
    assert len(log_lines(log)) == 4


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_cut_last_line_is_repaired(judge, tmp_path, cut):
    log = tmp_path / "log.jsonl"
    first = list(judgements(tasks(3), judge, log))
    whole = log.read_bytes()
    log.write_bytes(whole[:-cut])
    assert list(judgements(tasks(3), judge, log)) == first
    assert log.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "[]", '{"key": 1}', "\0" * 9, '{"key": "a", "reply": 5, "error": null}'],
)
def test_a_damaged_line_is_named(judge, tmp_path, line):
    log = tmp_path / "log.jsonl"
    list(judgements(tasks(2), judge, log))
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], line, lines[1]]) + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl: line 2 "):
        list(judgements(tasks(2), judge, log))


PROGRAM = """
import sys
from pathlib import Path
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.runner import judgements
from tests.gpt2.evaluation.judge.test_runner import tasks
model, log = map(Path, sys.argv[1:])
judge = LlamaCppJudge(model, 1, LlamaEvalParams(seed=1))
for _ in judgements(tasks(400), judge, log): pass
"""


def test_kill_9_loses_nothing_and_nothing_is_judged_twice(judge, tiny_model, tmp_path):
    log = tmp_path / "log.jsonl"
    for at_least in (20, 60):
        command = [sys.executable, "-c", PROGRAM, tiny_model, log]
        with subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": "src:."}) as process:
            while not log.exists() or log.read_bytes().count(b"\n") < at_least:
                assert process.poll() is None, "the process ended before it was killed"
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    with log.open("ab") as file:
        file.write(b'{"key":"half a line')

    before = len(log_lines_of_whole(log))
    resumed = list(judgements(tasks(400), judge, log))

    assert 60 <= before < 400
    assert counts(resumed) == {"n_total": 400, "scored": 400, "invalid": 0, "error": 0}
    keys = [line["key"] for line in log_lines(log)]
    assert len(keys) == len(set(keys)) == 400
    assert resumed == list(judgements(tasks(400), judge, tmp_path / "undisturbed.jsonl"))


def log_lines_of_whole(log: Path) -> list[bytes]:
    return log.read_bytes().split(b"\n")[:-1]
