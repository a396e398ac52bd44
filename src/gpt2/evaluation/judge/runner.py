"""Judging many items so that nothing is judged twice and nothing finished is lost to a crash."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from pydantic import ValidationError

from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.evaluation.judge.protocol import Judge, JudgeError, JudgeGone, parse_score
from gpt2.evaluation.judge.tasks import Task, Variant

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
    judge: str
    """The judge's digest."""
    prompt: str


def judgements(tasks: Sequence[Task], judge: Judge, log: Path) -> Iterator[Judgement]:
    """Judge ``tasks`` and yield one judgement for each, in order.

    Each verdict is appended to ``log`` (JSON Lines) as it comes. A prompt that has its reply there,
    from this judge with these options, is not put again; one that failed in an earlier run is.

    Raises:
        UserError: ``log`` holds a line that is no verdict (a cut last line is repaired instead), or
            the judge is gone; finished verdicts are in ``log``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    keys = [cache_key(judge, task.prompt) for task in tasks]
    verdicts = {verdict.key: verdict for verdict in _read(log) if verdict.reply is not None}
    prompts = {
        key: task.prompt for key, task in zip(keys, tasks, strict=True) if key not in verdicts
    }
    with log.open("a", encoding="utf-8", newline="\n") as file:
        new = _verdicts(judge, prompts)
        for key, task in zip(keys, tasks, strict=True):
            while key not in verdicts:
                try:
                    verdict = next(new)
                except JudgeGone as error:
                    replied = {key for key in verdicts if verdicts[key].reply is not None}
                    finished = sum(key in replied for key in keys)
                    raise UserError(
                        f"{error}\n{finished} of {len(tasks)} judgements are finished and kept: "
                        "run the stage again, it goes on from them"
                    ) from error
                file.write(verdict.model_dump_json() + "\n")
                file.flush()
                verdicts[verdict.key] = verdict
            yield _judgement(task, verdicts[key], judge.digest)


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


def _verdicts(judge: Judge, prompts: Mapping[str, str]) -> Iterator[Verdict]:
    """The judge's verdicts on ``prompts``, by key, in the order in which they are finished.

    Raises:
        JudgeGone: after the verdicts that could still be had.
    """
    if judge.concurrency == 1:
        for key, prompt in prompts.items():
            yield _ask(judge, prompt, key)
        return

    waiting, finished = deque(prompts.items()), SimpleQueue[Verdict | JudgeGone | None]()

    def work() -> None:
        try:
            with suppress(IndexError):  # Nothing is waiting any more.
                while True:
                    key, prompt = waiting.popleft()
                    finished.put(_ask(judge, prompt, key))
        except JudgeGone as error:
            waiting.clear()
            finished.put(error)
        finally:
            finished.put(None)

    gone: JudgeGone | None = None
    # Unlike a pool's, daemon threads do not hold up Ctrl-C until a server that hangs times out.
    for _ in range(judge.concurrency):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in range(judge.concurrency):
            while (result := finished.get()) is not None:
                if isinstance(result, JudgeGone):
                    gone = gone or result
                else:
                    yield result
    finally:
        waiting.clear()
    if gone:
        raise gone


def _ask(judge: Judge, prompt: str, key: str) -> Verdict:
    try:
        return Verdict(key=key, reply=_writable(judge.judge(prompt)), error=None)
    except JudgeError as error:
        return Verdict(key=key, reply=None, error=_writable(str(error)))


def _writable(text: str) -> str:
    """JSON may hold half a character (a lone surrogate), UTF-8 may not."""
    return text.encode(errors="backslashreplace").decode()


def _judgement(task: Task, verdict: Verdict, digest: str) -> Judgement:
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
        judge=digest,
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
