"""Judging many items so that nothing is judged twice and nothing finished is lost to a crash."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gpt2.errors import UserError
from gpt2.judge.protocol import Judge, JudgeError, parse_score
from gpt2.judge.tasks import Task, Variant
from gpt2.params import Params

Status = Literal["scored", "invalid", "error"]


class Verdict(Params):
    """What came of one prompt: a line of the log. Either ``reply`` or ``error`` is there."""

    key: str
    reply: str | None
    error: str | None


@dataclass(frozen=True)
class Judgement:
    """A task with its verdict. There is a ``score`` (0 to 100) just when the status is "scored"."""

    id: int
    kind: str
    variant: Variant
    status: Status
    score: int | None
    reply: str | None
    error: str | None
    prompt: str


def judgements(tasks: Sequence[Task], judge: Judge, log: Path) -> Iterator[Judgement]:
    """Judge ``tasks`` in order and yield one judgement for each.

    Each verdict is appended to ``log`` (JSON Lines) before it is yielded. A prompt that has its
    reply there, from this judge with these options, is not put again; one that failed is.

    Raises:
        UserError: ``log`` holds a line that is no verdict (a cut last line is repaired instead).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    replied = {verdict.key: verdict for verdict in _read(log) if verdict.reply is not None}
    with log.open("a", encoding="utf-8", newline="\n") as file:
        for task in tasks:
            key = cache_key(judge, task.prompt)
            verdict = replied.get(key)
            if verdict is None:
                verdict = _ask(judge, task.prompt, key)
                file.write(verdict.model_dump_json() + "\n")
                file.flush()
                if verdict.reply is not None:
                    replied[key] = verdict
            yield _judgement(task, verdict)


def cache_key(judge: Judge, text: str) -> str:
    """sha256 over the judge, its options and ``text``: all that a reply depends on."""
    content = json.dumps([judge.digest, dict(judge.options), text], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def counts(judged: Sequence[Judgement]) -> dict[str, int]:
    """How many there are, and of each status; the statuses sum up to ``n_total``."""
    statuses = [judgement.status for judgement in judged]
    return {
        "n_total": len(statuses),
        "scored": statuses.count("scored"),
        "invalid": statuses.count("invalid"),
        "error": statuses.count("error"),
    }


def _ask(judge: Judge, prompt: str, key: str) -> Verdict:
    try:
        return Verdict(key=key, reply=judge.judge(prompt), error=None)
    except JudgeError as error:
        return Verdict(key=key, reply=None, error=str(error))


def _judgement(task: Task, verdict: Verdict) -> Judgement:
    score = None if verdict.reply is None else parse_score(verdict.reply)
    status: Status = "error" if verdict.reply is None else "invalid" if score is None else "scored"
    return Judgement(
        id=task.id,
        kind=task.kind,
        variant=task.variant,
        status=status,
        score=score,
        reply=verdict.reply,
        error=verdict.error,
        prompt=task.prompt,
    )


def _read(log: Path) -> Iterator[Verdict]:
    """The verdicts of a log, after cutting off a last line that a kill left without its end."""
    if not log.exists():
        return
    data = log.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with log.open("r+b") as file:
            file.truncate(whole)
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            yield Verdict.model_validate_json(line)
        except ValidationError as error:
            raise UserError(
                f"{log}: line {number} is no verdict of a judge. Delete the file to judge afresh"
            ) from error
