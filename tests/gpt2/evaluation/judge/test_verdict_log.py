"""The log of unfinished judgements: its name, its repair, and when it is deleted."""

import os
import time
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.verdict_log import (
    KEPT_SECONDS,
    Verdict,
    cache_key,
    clear_logs,
    log_path,
    read_verdicts,
)

VERDICTS = [Verdict(key="a", reply="80", error=None), Verdict(key="b", reply=None, error="busy")]


def write(log: Path) -> bytes:
    lines = "".join(verdict.model_dump_json() + "\n" for verdict in VERDICTS)
    log.write_text(lines, encoding="utf-8")
    return log.read_bytes()


def test_each_judge_and_set_of_responses_has_its_own_log(judge, tiny_model):
    warmer = LlamaCppJudge(tiny_model, 1, LlamaEvalParams(seed=1, temperature=0.5))
    assert cache_key(warmer, "prompt") != cache_key(judge, "prompt")
    assert cache_key(judge, "prompt") != cache_key(judge, "Prompt")
    logs = {
        log_path(Path("logs"), each, digest) for each in (judge, warmer) for digest in ("1", "2")
    }
    assert len(logs) == 4
    assert log_path(Path("logs"), judge, "1") in logs


@pytest.mark.parametrize("cut", [1, 5])
def test_a_cut_last_line_is_removed(tmp_path, cut):
    log = tmp_path / "log.jsonl"
    assert list(read_verdicts(log)) == []
    whole = write(log)
    assert list(read_verdicts(log)) == VERDICTS
    log.write_bytes(whole[:-cut])
    assert list(read_verdicts(log)) == VERDICTS[:1]
    assert log.read_bytes() == whole[: whole.index(b"\n") + 1]


def test_a_line_that_is_not_a_verdict_is_an_error(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(write(log) + b"nonsense\n")
    with pytest.raises(UserError, match=r"log\.jsonl: line 3 is not a verdict"):
        list(read_verdicts(log))


def test_the_finished_log_and_old_ones_are_deleted(tmp_path):
    finished, recent, old = (tmp_path / f"{name}.jsonl" for name in ("finished", "recent", "old"))
    now = time.time()
    for log, age in ((finished, 0), (recent, KEPT_SECONDS - 60), (old, KEPT_SECONDS + 60)):
        write(log)
        os.utime(log, (now - age, now - age))
    clear_logs(finished)
    clear_logs(finished)  # another process may have deleted it
    assert [*tmp_path.iterdir()] == [recent]
