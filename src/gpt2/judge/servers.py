"""What all judges behind an HTTP server do when it is busy, ill or gone."""

import time
from collections.abc import Callable

from gpt2.judge.protocol import JudgeError, JudgeGone

PROBE_TIMEOUT = 10.0
"""Seconds that a server may take to say which models it has."""
FAULTS_IN_A_ROW = 3
"""So many prompts in a row at which the server failed mean that it will fail at the others too."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds between two attempts; each wait is twice the one before."""


class Busy(Exception):
    """The server took no request, or died over it: the same one may succeed in a moment."""


class Fault(Exception):
    """The server failed at a request, and not because of what was in it."""


def error_of(status: int, message: str) -> Exception:
    """The exception that an HTTP status stands for."""
    if status in (408, 429, 502, 503, 504):
        return Busy(message)
    if status in (401, 403, 404):
        return JudgeGone(message)
    return Fault(message) if status >= 500 else JudgeError(message)


class Patience:
    """Puts prompts to a server that may fail, without waiting for ever or failing a thousand times.

    Threads may share one: a miscount among them changes no more than when it gives up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._faults = 0

    def reply(self, attempt: Callable[[], str]) -> str:
        """What ``attempt`` returns, after as many attempts as it takes while the server is busy.

        Raises:
            JudgeError: the server failed at this prompt.
            JudgeGone: it was busy or away for ``seconds``, or it failed at several in a row.
        """
        try:
            reply = self._insist(attempt)
        except Fault as error:
            self._faults += 1
            if self._faults < FAULTS_IN_A_ROW:
                raise JudgeError(str(error)) from error
            raise JudgeGone(f"{error}\n{self._faults} prompts in a row failed") from error
        self._faults = 0
        return reply

    def _insist(self, attempt: Callable[[], str]) -> str:
        deadline, wait = time.monotonic() + self._seconds, FIRST_WAIT
        while True:
            try:
                return attempt()
            except Busy as error:
                if time.monotonic() + wait > deadline:
                    raise JudgeGone(str(error)) from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
