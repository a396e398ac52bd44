"""The log of unfinished judgements: JSON Lines, one verdict per prompt, so that a crash loses none.

There is one log for each judge and set of responses. It is deleted when the stage has finished.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.evaluation.judge.protocol import Judge

KEPT_SECONDS = 30 * 24 * 3600
"""Unfinished logs older than this are deleted."""


class Verdict(Params):
    """The outcome of one prompt, a line of the log. Either ``reply`` or ``error`` is set."""

    key: str
    reply: str | None
    error: str | None


def log_path(directory: Path, judge: Judge, responses_digest: str) -> Path:
    """The log in ``directory`` for this judge, its options and these responses."""
    return directory / f"{cache_key(judge, responses_digest)[:16]}.jsonl"


def cache_key(judge: Judge, text: str) -> str:
    """sha256 of the judge, its options and ``text``: of everything that a reply depends on."""
    content = json.dumps([judge.digest, dict(judge.options), text], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_verdicts(log: Path) -> Iterator[Verdict]:
    """The verdicts in a log. A last line that was cut off by a crash is removed first.

    Raises:
        UserError: a line is not a verdict.
    """
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
                f"{log}: line {number} is not a verdict of a judge. Delete the file to judge again"
            ) from error


def clear_logs(finished: Path) -> None:
    """Delete a finished log, and others beside it that have not changed for `KEPT_SECONDS`.

    The log of an experiment that runs at the same time is recent, so it is kept.
    """
    finished.unlink(missing_ok=True)
    for log in finished.parent.glob("*.jsonl"):
        with suppress(FileNotFoundError):
            if time.time() - log.stat().st_mtime > KEPT_SECONDS:
                log.unlink()
