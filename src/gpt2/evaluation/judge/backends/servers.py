"""What all judges behind an HTTP server do when it is busy, ill or gone, and how they reach it."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from gpt2.core import web
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.protocol import JudgeError, JudgeGone

PROBE_TIMEOUT = 10.0
"""Seconds that a server may take to say which models it has."""
FAULTS_IN_A_ROW = 3
"""So many prompts in a row at which the server failed mean that it will fail at the others too."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds between two attempts; each wait is twice the one before, or what the server asks for."""

Result = TypeVar("Result")


class Busy(Exception):
    """The server took no request, or died over it: the same one may succeed in a moment."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""


class Away(Busy):
    """There is no server, or it died over the request."""


class Fault(Exception):
    """The server failed at a request, and not because of what was in it."""


def proxy_for(address: str) -> str | None:
    """The proxy through which all requests to a judge go; None: there is none.

    Raises:
        JudgeGone: it cannot be used.
    """
    try:
        return web.proxy_for(address, "socksio")
    except UserError as error:
        raise JudgeGone(f"judge: {address}: {error}") from error


def one_line(text: object) -> str:
    """What a server says of an error; of a proxy it may be a page of HTML."""
    return f"{' '.join(str(text).split()):.1000}"


def through(proxy: str | None) -> str:
    """The end of a server's name in a message."""
    return f" (through the proxy {web.without_password(proxy)})" if proxy else ""


def error_of(status: int, message: str, headers: Mapping[str, str]) -> Exception:
    """The exception that an HTTP status stands for."""
    if status in (408, 429, 502, 503, 504, 529):
        return Busy(message, web.seconds_to_wait(headers.get("Retry-After", "")))
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
            reply = self.insist(attempt)
        except Fault as error:
            self._faults += 1
            if self._faults < FAULTS_IN_A_ROW:
                raise JudgeError(str(error)) from error
            raise JudgeGone(f"{error}\n{self._faults} prompts in a row failed") from error
        self._faults = 0
        return reply

    def identity(self, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` finds out about the judge, which must not depend on a failed request.

        Raises:
            JudgeGone: it failed, the server is not there, or it was busy for ``seconds``.
        """

        def present() -> Result:
            try:
                return attempt()
            except Away as error:
                raise JudgeGone(str(error)) from error

        try:
            return self.insist(present)
        except (Fault, JudgeError) as error:
            raise JudgeGone(str(error)) from error

    def insist(self, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` returns, as soon as the server is not busy or away.

        Raises:
            JudgeGone: it was for ``seconds``, or asks to wait longer.
        """
        deadline, pause = time.monotonic() + self._seconds, FIRST_WAIT
        while True:
            try:
                return attempt()
            except Busy as error:
                wait = max(pause, error.wait)
                if time.monotonic() + wait > deadline:
                    asked = f"\nIt asks to wait {error.wait:.0f} s; " if error.wait else "\n"
                    patience = f"judge.patience is {self._seconds:g} s"
                    raise JudgeGone(f"{error}{asked}{patience}") from error
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_WAIT)
