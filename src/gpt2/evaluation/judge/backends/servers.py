"""Retries, errors and proxies of all judges behind an HTTP server."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from gpt2.core import web
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.protocol import JudgeError, JudgeGone

PROBE_TIMEOUT = 10.0
"""Seconds to wait for a server's list of models."""
FAULTS_IN_A_ROW = 3
"""After this many failed prompts in a row, the run stops."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds between two attempts. Each wait is twice as long as the one before, or as long as the
server asks for if that is longer."""

Result = TypeVar("Result")


class Busy(Exception):
    """The server did not accept the request, or died during it. A retry may succeed."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""


class Unreachable(Busy):
    """There is no server, or it died during the request."""


class Fault(Exception):
    """The server failed at a request, but not because of its content."""


def proxy_for(address: str) -> str | None:
    """The proxy for all requests to a judge; None: no proxy.

    Raises:
        JudgeGone: the proxy cannot be used.
    """
    try:
        return web.proxy_for(address, "socksio")
    except UserError as error:
        raise JudgeGone(f"judge: {address}: {error}") from error


def one_line(text: object) -> str:
    """A server's error message in one line, shortened: a proxy may send an HTML page."""
    return f"{' '.join(str(text).split()):.1000}"


def via_proxy(proxy: str | None) -> str:
    """Names the proxy in an error message, after the server's address."""
    return f" (through the proxy {web.without_password(proxy)})" if proxy else ""


def error_of(status: int, message: str, headers: Mapping[str, str]) -> Exception:
    """The exception for an HTTP status."""
    if status in (408, 429, 502, 503, 504, 529):
        return Busy(message, web.seconds_to_wait(headers.get("Retry-After", "")))
    if status in (401, 403, 404):
        return JudgeGone(message)
    return Fault(message) if status >= 500 else JudgeError(message)


class Retries:
    """Sends requests to a server that may fail: retries while it is busy, and gives up in time.

    Threads may share one. A race on its counter only changes when it gives up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._faults = 0

    def reply(self, attempt: Callable[[], str]) -> str:
        """The reply that ``attempt`` returns, with retries while the server is busy.

        Raises:
            JudgeError: the server failed at this prompt.
            JudgeGone: it was busy or unreachable for ``seconds``, or failed several times in a row.
        """
        try:
            reply = self.retry(attempt)
        except Fault as error:
            self._faults += 1
            if self._faults < FAULTS_IN_A_ROW:
                raise JudgeError(str(error)) from error
            raise JudgeGone(f"{error}\n{self._faults} prompts in a row failed") from error
        self._faults = 0
        return reply

    def identity(self, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` returns about the judge's identity. Any failure is final.

        Raises:
            JudgeGone: it failed, the server is unreachable, or it was busy for ``seconds``.
        """

        def reachable() -> Result:
            try:
                return attempt()
            except Unreachable as error:
                raise JudgeGone(str(error)) from error

        try:
            return self.retry(reachable)
        except (Fault, JudgeError) as error:
            raise JudgeGone(str(error)) from error

    def retry(self, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` returns, with retries while the server is busy or unreachable.

        Raises:
            JudgeGone: it still was after ``seconds``, or it asks to wait longer.
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
