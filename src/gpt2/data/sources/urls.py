"""Files from the web: resumed, tried again, checked against their sha256, and whole or absent.

An unfinished download waits in a cache. It goes on from where it stopped (``Range``) only if the
server still has the same version of the file (``If-Range``, RFC 9110, section 13.1.5).
"""

import errno
import hashlib
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests

from gpt2.core import files, web
from gpt2.core.errors import UserError
from gpt2.core.locks import locked
from gpt2.core.params import Params, parse
from gpt2.core.progress import Progress

DOWNLOADS = Path(".cache", "downloads")
"""Below the repository's root: unfinished downloads, and finished ones of the user's addresses."""

BLOCK = 2**16
MEGABYTE = 10**6
LARGEST = 16 * 2**30
"""Bytes. The largest file that we fetch, GPT-2 1558M, has 6.4e9."""
MARGIN = 64 * 2**20
"""Bytes of each disk that stay free."""
MOST_REDIRECTS = 10
ABSENT = (404, 410)
WORTH_ANOTHER_TRY = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to put up with a bad connection; times in seconds."""

    retries: int = 5
    """Further tries; each megabyte of progress earns them anew."""
    first_delay: float = 1.0
    """Before the first of them; it doubles with each."""
    longest_delay: float = 120.0
    """A server that asks for more (``Retry-After``) is given up."""
    silence: float = 30.0
    """Without a byte, after which a connection counts as broken."""


PATIENCE = Patience()


class AbsentError(UserError):
    """The file is at none of its places: each says so itself."""


class _GivenUpError(Exception):
    """This place does not give the file: try the next one."""

    def __init__(self, reason: str, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent
        """Whether it says that there is no such file."""


class _BrokenError(Exception):
    """It did not work this time."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    sha256: str | None,
    cache: Path,
    max_bytes: int = LARGEST,
    patience: Patience = PATIENCE,
) -> str:
    """Write a file from the web to ``destination``, whole or not at all.

    Args:
        urls: the same file at several places, tried in this order.
        destination: where it goes; its directory exists.
        sha256: the expected digest, if it is known.
        cache: directory where an unfinished download waits.
        max_bytes: longest file to accept.
        patience: with slow and failing servers.

    Returns:
        the file's sha256.

    Raises:
        UserError: no place gives the file (`AbsentError`: none has it), it is another one, or the
            disk is too full.
    """
    cache.mkdir(parents=True, exist_ok=True)
    problems, absent = [], True
    for url in urls:
        part = _Part(url, cache, destination.parent, max_bytes, patience, sha256 is not None)
        try:
            with locked(part.path.with_suffix(".lock")):
                part.complete()
                actual = files.sha256(part.path)
                if sha256 is not None and actual != sha256:
                    part.discard()
                    raise _GivenUpError(
                        f"sha256 is {actual}, expected {sha256}. It is damaged, or another version"
                    )
                _move(part.path, destination)
                part.discard()
                return actual
        except _GivenUpError as problem:
            problems.append(f"{shown(url)}: {problem}")
            absent = absent and problem.absent
            if len(problems) < len(urls):
                logger.warning("%s. Trying the next place", problems[-1])
    raise (AbsentError if absent else UserError)("\n  ".join(problems))


def headers(url: str, wanted: str, patience: Patience = PATIENCE) -> Mapping[str, str]:
    """The headers of the first answer to HEAD, on the way from ``url``, that has ``wanted``.

    Raises:
        UserError: there is no answer, or none has it (`AbsentError`: there is no such file).
    """

    def ask() -> Mapping[str, str]:
        for response in _way("HEAD", url, {}, patience):
            with response:
                if wanted in response.headers:
                    return response.headers
                if not response.is_redirect:
                    _check_status(response)
        raise _GivenUpError(f"its answer has no header {wanted}")

    try:
        return _persist(ask, lambda: 0, url, patience)
    except _GivenUpError as problem:
        kind = AbsentError if problem.absent else UserError
        raise kind(f"{shown(url)}: {problem}") from problem


def shown(url: str) -> str:
    """``url`` as it may stand in a message: without credentials."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    _, credentials, host = parts.netloc.rpartition("@")
    path = parts.path + ("?***" if parts.query else "")
    return f"{parts.scheme}://{'***@' if credentials else ''}{host}{path}"


class _Notes(Params):
    """Which version of a file an unfinished download is of."""

    url: str
    length: int | None
    validator: str | None


@dataclass(frozen=True)
class _Part:
    """An unfinished download: its bytes in ``cache``, and notes that say of which version."""

    url: str
    cache: Path
    destination: Path
    """The directory that it goes to."""
    max_bytes: int
    patience: Patience
    digest_known: bool

    @property
    def path(self) -> Path:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", _parts(self.url).path.rpartition("/")[2])
        address = hashlib.sha256(self.url.encode()).hexdigest()
        return self.cache / f"{address[:16]}-{name[-80:]}.part"

    @property
    def notes(self) -> Path:
        return self.path.with_suffix(".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        # The bytes go first: notes alone are harmless, bytes with the notes of others are not.
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def complete(self) -> None:
        """Fetch what is missing, with as many tries as `patience` allows."""
        logger.info("downloading %s", shown(self.url))
        _persist(self._go_on, self.size, self.url, self.patience)

    def _go_on(self) -> None:
        """Ask once for what is missing, and keep as much of it as comes."""
        notes = self._known()
        start = self.size() if notes.get("validator") else 0
        if start and start == notes["length"]:
            return
        fields = {"Range": f"bytes={start}-", "If-Range": notes["validator"]} if start else {}
        with _answer(self.url, fields, self.patience) as response:
            if start and response.status_code == 416:
                self.discard()
                raise _BrokenError(f"it has no byte {start}: starting afresh")
            _check_status(response)
            if response.status_code == 206:
                self._check_continuation(response, start, notes)
            else:
                start = 0
                self.discard()
                notes = self._describe(response)
                files.write_json(self.notes, notes)
            if notes["length"] is not None:
                self._check_room(notes["length"], start)
            self._append(response, start, notes["length"])
        if notes["length"] is not None and self.size() != notes["length"]:
            raise _BrokenError(f"ended after {self.size():,} of {notes['length']:,} bytes")

    def _known(self) -> dict[str, Any]:
        """The notes; none if there are none or they are damaged."""
        try:
            return parse(_Notes, files.read_json(self.notes), str(self.notes)).model_dump()
        except UserError:
            return {}

    def _check_continuation(
        self, response: requests.Response, start: int, notes: Mapping[str, Any]
    ) -> None:
        """Raise `_BrokenError` unless the answer is the rest of the same file."""
        found = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d+|\*)", found)
        validator = notes.get("validator") or ""
        kind = "ETag" if validator.startswith('"') else "Last-Modified"
        if (
            not match
            or int(match[1]) != start
            or match[2] not in ("*", str(notes.get("length")))
            or response.headers.get(kind, validator) != validator
        ):
            self.discard()
            raise _BrokenError("it goes on with another part or version: starting afresh")

    def _describe(self, response: requests.Response) -> dict[str, Any]:
        """Notes about a new file: its length, and what tells this version from others."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _GivenUpError("could not be downloaded: the server sends it compressed only")
        stated = response.headers.get("Content-Length", "")
        length = int(stated) if re.fullmatch(r"\d{1,24}", stated) else None
        if length is None and not self.digest_known and not response.raw.chunked:
            raise _GivenUpError("the server does not say how long it is. Give its sha256")
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        return {"url": shown(self.url), "length": length, "validator": strong}

    def _check_room(self, length: int, start: int) -> None:
        if length > self.max_bytes:
            self.discard()
            raise _GivenUpError(f"has {length:,} bytes, over {self.max_bytes:,}")
        same_disk = self.cache.stat().st_dev == self.destination.stat().st_dev
        needs = {self.cache: length - start, self.destination: 0 if same_disk else length}
        for directory, needed in needs.items():
            free = shutil.disk_usage(directory).free
            if free < needed + MARGIN:
                raise UserError(
                    f"{shown(self.url)}: needs {needed:,} bytes, but the disk of {directory} has "
                    f"only {free:,} free, {MARGIN:,} of them to be kept. Make room"
                )

    def _append(self, response: requests.Response, start: int, length: int | None) -> None:
        """Write the body after the first ``start`` bytes."""
        done = start
        bar = None
        if length is not None and length > 10 * MEGABYTE:
            name = self.path.stem.partition("-")[2]
            bar = Progress(name, length // MEGABYTE, "megabyte", start // MEGABYTE)
        try:
            with self.path.open("ab" if start else "wb") as file:
                for block in _body(response, self.patience):
                    if done + len(block) > self.max_bytes:
                        self.discard()
                        raise _GivenUpError(f"has more than {self.max_bytes:,} bytes")
                    file.write(block)
                    before, done = done, done + len(block)
                    if bar and done // MEGABYTE > before // MEGABYTE:
                        bar.advance(count=done // MEGABYTE - before // MEGABYTE)
                file.flush()
                os.fsync(file.fileno())
        finally:
            if bar:
                bar.close()


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _GivenUpError("not a valid address") from None


def _persist(
    attempt: Callable[[], Result], done: Callable[[], int], url: str, patience: Patience
) -> Result:
    """What ``attempt`` gives, as soon as it works; ``done`` says how many bytes it has reached."""
    tries, farthest = 0, done()
    while True:
        try:
            return attempt()
        except _BrokenError as problem:
            # Progress beyond the farthest byte ever: a server that cannot resume must not go on
            # for good.
            if done() >= farthest + MEGABYTE:
                tries, farthest = 0, done()
            if tries == patience.retries or problem.wait > patience.longest_delay:
                raise _GivenUpError(str(problem)) from problem
            delay = min(patience.longest_delay, patience.first_delay * 2**tries)
            delay = max(problem.wait, delay * random.uniform(0.5, 1))
            tries += 1
            logger.warning("%s: %s. Trying again in %.1f s", shown(url), problem, delay)
            time.sleep(delay)


def _answer(url: str, fields: Mapping[str, str], patience: Patience) -> requests.Response:
    """The answer to GET at the end of all redirects; its body is still to be read."""
    *_, last = _way("GET", url, fields, patience)
    return last


def _way(
    method: str, url: str, fields: Mapping[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """The redirects from ``url``, and the answer at their end."""
    allowed: tuple[str, ...] = ("http", "https")
    for _ in range(MOST_REDIRECTS):
        scheme = _parts(url).scheme
        if scheme not in allowed:
            raise _GivenUpError(f"leads to {shown(url)}, but only {' and '.join(allowed)} may be")
        allowed = ("https",) if scheme == "https" else allowed
        response = _ask(method, url, fields, patience)
        yield response
        if not response.is_redirect:
            return
        response.close()
        try:
            url = urljoin(url, response.headers["Location"])
        except ValueError:
            raise _GivenUpError("leads to no valid address") from None
    raise _GivenUpError(f"more than {MOST_REDIRECTS} redirects")


class _Session(requests.Session):
    """Leaves redirects to us; else it reads all that comes with one, however much that is."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def proxies(url: str) -> dict[str, str]:
    """The argument ``proxies`` of `requests` for ``url``: it then ignores the environment.

    Raises:
        UserError: as `web.proxy_for`.
    """
    proxy = web.proxy_for(url, "PySocks")
    return {"no_proxy": "*"} | ({"http": proxy, "https": proxy} if proxy else {})


def _ask(method: str, url: str, fields: Mapping[str, str], patience: Patience) -> requests.Response:
    try:
        with _Session() as session:
            return session.request(
                method,
                url,
                # A compressed answer has other bytes, at other places.
                headers={"Accept-Encoding": "identity", **fields},
                stream=True,
                allow_redirects=False,
                timeout=patience.silence,
                proxies=proxies(url),
            )
    except requests.exceptions.InvalidURL:
        raise _GivenUpError("not a valid address") from None
    except requests.RequestException as error:
        raise _broken(error, patience) from error


def _body(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    try:
        yield from response.iter_content(BLOCK)
    except requests.RequestException as error:
        raise _broken(error, patience) from error


def _broken(error: BaseException, patience: Patience) -> _BrokenError:
    # Only the innermost reason: the outer ones repeat the address with all that it may hold.
    while inner := error.__cause__ or error.__context__:
        error = inner
    reason = f"nothing for {patience.silence:g} s" if isinstance(error, TimeoutError) else error
    return _BrokenError(f"could not be downloaded ({reason}). Check the network")


def _check_status(response: requests.Response) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    problem = f"could not be downloaded: it answers {code} {response.reason}"
    if code not in WORTH_ANOTHER_TRY:
        raise _GivenUpError(problem, absent=code in ABSENT)
    wait = web.seconds_to_wait(response.headers.get("Retry-After", ""))
    raise _BrokenError(problem + (f", and asks to wait {wait:.0f} s" if wait else ""), wait)


def _move(source: Path, destination: Path) -> None:
    """Rename; from another file system, copy beside the destination first."""
    try:
        source.replace(destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
        try:
            with source.open("rb") as old, temporary.open("wb") as new:
                shutil.copyfileobj(old, new, BLOCK)
                new.flush()
                os.fsync(new.fileno())
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)
