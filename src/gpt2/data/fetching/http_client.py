"""HTTP requests for downloads: redirects, retries with exponential backoff, proxies, status codes.

Two kinds of failure are told apart. `TransientError` is worth another try at the same address;
`UnavailableError` means that this address does not have the file, so the next one is tried.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests

from gpt2.core import web
from gpt2.core.errors import UserError

BLOCK = 2**16
"""Bytes of a response that are read at a time."""
MEGABYTE = 10**6
MAX_REDIRECTS = 10
NOT_FOUND = (404, 410)
RETRIED = (408, 429, 500, 502, 503, 504)
"""Status codes of a server that may answer the next request."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a failing request is repeated; times in seconds."""

    retries: int = 5
    """Retries after the first try. The count starts again after each megabyte of progress."""
    first_delay: float = 1.0
    """Delay before the first retry; it doubles with each."""
    max_delay: float = 120.0
    """Longest delay. A server that asks for more (``Retry-After``) is given up."""
    timeout: float = 30.0
    """A connection counts as broken after this time without a byte."""


RETRY_POLICY = RetryPolicy()


class AbsentError(UserError):
    """The file is at none of its addresses: every server answers so."""


class UnavailableError(Exception):
    """This address does not give the file; another one may."""

    def __init__(self, reason: str, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent
        """Whether the server answered that there is no such file."""


class TransientError(Exception):
    """The request failed this time; a retry may succeed."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks to wait."""


def headers(url: str, wanted: str, policy: RetryPolicy = RETRY_POLICY) -> Mapping[str, str]:
    """The headers of the first response to HEAD that has ``wanted``, redirects included.

    Raises:
        UserError: no response, or none with this header (`AbsentError`: there is no such file).
    """

    def ask() -> Mapping[str, str]:
        for response in _follow("HEAD", url, {}, policy):
            with response:
                if wanted in response.headers:
                    return response.headers
                if not response.is_redirect:
                    check_status(response)
        raise UnavailableError(f"its answer has no header {wanted}")

    try:
        return retry(ask, lambda: 0, url, policy)
    except UnavailableError as problem:
        kind = AbsentError if problem.absent else UserError
        raise kind(f"{redacted(url)}: {problem}") from problem


def get(url: str, fields: Mapping[str, str], policy: RetryPolicy) -> requests.Response:
    """The response to GET after all redirects; its body has not been read yet.

    Args:
        url: the address.
        fields: further header fields of the request.
        policy: gives the timeout; nothing is repeated here.
    """
    *_, last = _follow("GET", url, fields, policy)
    return last


def body(response: requests.Response, policy: RetryPolicy) -> Iterator[bytes]:
    """The body of a response in blocks.

    Raises:
        TransientError: the connection breaks.
    """
    try:
        yield from response.iter_content(BLOCK)
    except requests.RequestException as error:
        raise _transient(error, policy) from error


def check_status(response: requests.Response) -> None:
    """Raise `TransientError` or `UnavailableError` unless the response holds the file."""
    code = response.status_code
    if code in (200, 206):
        return
    problem = f"could not be downloaded: it answers {code} {response.reason}"
    if code not in RETRIED:
        raise UnavailableError(problem, absent=code in NOT_FOUND)
    wait = web.seconds_to_wait(response.headers.get("Retry-After", ""))
    raise TransientError(problem + (f", and asks to wait {wait:.0f} s" if wait else ""), wait)


def retry(
    attempt: Callable[[], Result], done: Callable[[], int], url: str, policy: RetryPolicy
) -> Result:
    """Call ``attempt`` until it succeeds; ``done`` gives the number of bytes received so far.

    Raises:
        UnavailableError: ``attempt`` raises it, or no retry is left.
    """
    tries, farthest = 0, done()
    while True:
        try:
            return attempt()
        except TransientError as problem:
            # Only bytes beyond the farthest position so far count as progress. Otherwise a server
            # that cannot resume would be asked forever.
            if done() >= farthest + MEGABYTE:
                tries, farthest = 0, done()
            if tries == policy.retries or problem.wait > policy.max_delay:
                raise UnavailableError(str(problem)) from problem
            delay = min(policy.max_delay, policy.first_delay * 2**tries)
            delay = max(problem.wait, delay * random.uniform(0.5, 1))
            tries += 1
            logger.warning("%s: %s. Trying again in %.1f s", redacted(url), problem, delay)
            time.sleep(delay)


def redacted(url: str) -> str:
    """``url`` without credentials and query, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid address"
    _, credentials, host = parts.netloc.rpartition("@")
    path = parts.path + ("?***" if parts.query else "")
    return f"{parts.scheme}://{'***@' if credentials else ''}{host}{path}"


def split_url(url: str) -> SplitResult:
    """The parts of an address.

    Raises:
        UnavailableError: it is not valid.
    """
    try:
        return urlsplit(url)
    except ValueError:
        raise UnavailableError("not a valid address") from None


def proxies(url: str) -> dict[str, str]:
    """The argument ``proxies`` of `requests` for ``url``: it then ignores the environment.

    Raises:
        UserError: as `web.proxy_for`.
    """
    proxy = web.proxy_for(url, "PySocks")
    return {"no_proxy": "*"} | ({"http": proxy, "https": proxy} if proxy else {})


def _follow(
    method: str, url: str, fields: Mapping[str, str], policy: RetryPolicy
) -> Iterator[requests.Response]:
    """The redirects from ``url``, and the last response. https never leads to http."""
    allowed: tuple[str, ...] = ("http", "https")
    for _ in range(MAX_REDIRECTS):
        scheme = split_url(url).scheme
        if scheme not in allowed:
            raise UnavailableError(
                f"leads to {redacted(url)}, but only {' and '.join(allowed)} addresses are allowed"
            )
        allowed = ("https",) if scheme == "https" else allowed
        response = _request(method, url, fields, policy)
        yield response
        if not response.is_redirect:
            return
        response.close()
        try:
            url = urljoin(url, response.headers["Location"])
        except ValueError:
            raise UnavailableError("leads to an invalid address") from None
    raise UnavailableError(f"more than {MAX_REDIRECTS} redirects")


def _request(
    method: str, url: str, fields: Mapping[str, str], policy: RetryPolicy
) -> requests.Response:
    try:
        with _Session() as session:
            return session.request(
                method,
                url,
                # A compressed response has other bytes, at other positions.
                headers={"Accept-Encoding": "identity", **fields},
                stream=True,
                allow_redirects=False,
                timeout=policy.timeout,
                proxies=proxies(url),
            )
    except requests.exceptions.InvalidURL:
        raise UnavailableError("not a valid address") from None
    except requests.RequestException as error:
        raise _transient(error, policy) from error


class _Session(requests.Session):
    """A session that ignores redirects: `requests` would read the whole body of each."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _transient(error: BaseException, policy: RetryPolicy) -> TransientError:
    # Only the innermost reason: the outer ones repeat the address with its credentials.
    while inner := error.__cause__ or error.__context__:
        error = inner
    reason = f"no data for {policy.timeout:g} s" if isinstance(error, TimeoutError) else error
    return TransientError(f"could not be downloaded ({reason}). Check the network")
