"""Judges many answers: a crash loses no finished judgement, and no prompt is judged twice."""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from gpt2.core.errors import UserError
from gpt2.core.locks import locked
from gpt2.core.progress import Progress
from gpt2.evaluation.judge.protocol import Judge, JudgeError, JudgeGone, parse_score
from gpt2.evaluation.judge.tasks import Task, Variant
from gpt2.evaluation.judge.verdict_log import Verdict, cache_key, read_verdicts

logger = logging.getLogger(__name__)

Status = Literal["scored", "invalid", "error"]


@dataclass(frozen=True)
class Judgement:
    """A task and its verdict. ``score`` (0 to 100) is set if the status is "scored"."""

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


def judge_all(tasks: Sequence[Task], judge: Judge, log: Path) -> list[Judgement]:
    """The `judgements` of ``tasks``, with a progress bar.

    A lock beside ``log`` makes a second process wait that judges the same answers.
    """
    judged = []
    with locked(log.with_suffix(".lock"), on_wait=_report_wait):
        progress = Progress("judging", len(tasks), "answer")
        for judgement in judgements(tasks, judge, log):
            judged.append(judgement)
            progress.advance()
        progress.close()
    return judged


def judgements(tasks: Sequence[Task], judge: Judge, log: Path) -> Iterator[Judgement]:
    """Judge ``tasks`` and yield one judgement for each, in order.

    Each verdict is appended to ``log`` as soon as it is there. A prompt whose reply is already in
    the log, by the same judge with the same options, is not sent again. One that failed is.

    Raises:
        UserError: a line of ``log`` is not a verdict (a cut last line is removed instead), or the
            judge is gone; the finished verdicts are in ``log``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    keys = [cache_key(judge, task.prompt) for task in tasks]
    verdicts = {verdict.key: verdict for verdict in read_verdicts(log) if verdict.reply is not None}
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
                        "run the stage again, and it continues from them"
                    ) from error
                file.write(verdict.model_dump_json() + "\n")
                file.flush()
                verdicts[verdict.key] = verdict
            yield _judgement(task, verdicts[key], judge.digest)


def counts(judged: Sequence[Judgement]) -> dict[str, int]:
    """Number of judgements: in total (``n_total``) and of each status, which add up to it."""
    statuses = [judgement.status for judgement in judged]
    return {
        "n_total": len(statuses),
        "scored": statuses.count("scored"),
        "invalid": statuses.count("invalid"),
        "error": statuses.count("error"),
    }


def scores_by_id(judged: Sequence[Judgement], variant: Variant) -> dict[int, int]:
    """The scores of a variant, by the record's id. Answers without a score are not included."""
    return {
        judgement.id: judgement.score
        for judgement in judged
        if judgement.variant == variant and judgement.score is not None
    }


def _report_wait(holder: str) -> None:
    logger.info("waiting for process %s: this judge grades the same responses there", holder)


def _verdicts(judge: Judge, prompts: Mapping[str, str]) -> Iterator[Verdict]:
    """The judge's verdicts on ``prompts`` (by key), in the order in which they are finished.

    Raises:
        JudgeGone: after the verdicts that were still in flight.
    """
    if judge.concurrency == 1:
        for key, prompt in prompts.items():
            yield _ask(judge, prompt, key)
        return

    waiting, finished = deque(prompts.items()), SimpleQueue[Verdict | JudgeGone | None]()

    def work() -> None:
        try:
            with suppress(IndexError):  # nothing is waiting any more
                while True:
                    key, prompt = waiting.popleft()
                    finished.put(_ask(judge, prompt, key))
        except JudgeGone as error:
            waiting.clear()
            finished.put(error)
        finally:
            finished.put(None)

    gone: JudgeGone | None = None
    # Daemon threads: those of a pool would delay Ctrl-C until a hanging server times out.
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
        return Verdict(key=key, reply=_encodable(judge.judge(prompt)), error=None)
    except JudgeError as error:
        return Verdict(key=key, reply=None, error=_encodable(str(error)))


def _encodable(text: str) -> str:
    """Escape lone surrogates, which JSON allows but UTF-8 does not."""
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
