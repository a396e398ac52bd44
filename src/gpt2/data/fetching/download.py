"""Download a file completely or not at all: resumed, retried, checked against its sha256.

An unfinished download stays in a cache. It resumes where it stopped (``Range``) only if the server
still has the same version of the file (``If-Range``, RFC 9110, section 13.1.5).
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.locks import locked
from gpt2.core.params import Params, parse
from gpt2.core.progress import Progress
from gpt2.data.fetching import http_client
from gpt2.data.fetching.http_client import (
    BLOCK,
    MEGABYTE,
    RETRY_POLICY,
    AbsentError,
    RetryPolicy,
    TransientError,
    UnavailableError,
    redacted,
)

DOWNLOADS = Path(".cache", "downloads")
"""Below the repository's root: unfinished downloads, and finished ones of ``source: url``."""

MAX_BYTES = 16 * 2**30
"""The largest file that the pipeline needs, GPT-2 1558M, has 6.4e9 bytes."""
DISK_MARGIN = 64 * 2**20
"""Bytes of each disk that stay free."""

logger = logging.getLogger(__name__)


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    sha256: str | None,
    cache: Path,
    max_bytes: int = MAX_BYTES,
    policy: RetryPolicy = RETRY_POLICY,
) -> str:
    """Write a file from the web to ``destination``, completely or not at all.

    Args:
        urls: addresses of the same file, tried in this order.
        destination: path of the file; its directory exists.
        sha256: the expected digest, if it is known.
        cache: directory for the unfinished download.
        max_bytes: longest file to accept.
        policy: retries and timeout.

    Returns:
        the file's sha256.

    Raises:
        UserError: no address gives the file (`AbsentError`: every server says that there is none),
            the digest is another one, or the disk is too full.
    """
    cache.mkdir(parents=True, exist_ok=True)
    problems, absent = [], True
    for url in urls:
        part = _PartialFile(url, cache, destination.parent, max_bytes, policy, sha256 is not None)
        try:
            with locked(part.path.with_suffix(".lock")):
                part.complete()
                actual = files.sha256(part.path)
                if sha256 is not None and actual != sha256:
                    part.discard()
                    raise UnavailableError(
                        f"sha256 is {actual}, expected {sha256}. It is damaged, or another version"
                    )
                _move(part.path, destination)
                part.discard()
                return actual
        except UnavailableError as problem:
            problems.append(f"{redacted(url)}: {problem}")
            absent = absent and problem.absent
            if len(problems) < len(urls):
                logger.warning("%s. Trying the next address", problems[-1])
    raise (AbsentError if absent else UserError)("\n  ".join(problems))


class _Notes(Params):
    """Which version of a file an unfinished download belongs to."""

    url: str
    length: int | None
    validator: str | None
    """The strong ETag or the date of the last change."""


@dataclass(frozen=True)
class _PartialFile:
    """An unfinished download: its bytes in ``cache``, and notes on the version of the file."""

    url: str
    cache: Path
    destination: Path
    """Directory of the finished file."""
    max_bytes: int
    policy: RetryPolicy
    digest_known: bool

    @property
    def path(self) -> Path:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self._url_path().rpartition("/")[2])
        address = hashlib.sha256(self.url.encode()).hexdigest()
        return self.cache / f"{address[:16]}-{name[-80:]}.part"

    def _url_path(self) -> str:
        return http_client.split_url(self.url).path

    @property
    def notes(self) -> Path:
        return self.path.with_suffix(".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        # The bytes go first: notes alone are harmless, bytes with another file's notes are not.
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def complete(self) -> None:
        """Fetch what is missing, with as many retries as the policy allows."""
        logger.info("downloading %s", redacted(self.url))
        http_client.retry(self._resume, self.size, self.url, self.policy)

    def _resume(self) -> None:
        """Request what is missing once, and keep what arrives."""
        notes = self._read_notes()
        start = self.size() if notes.get("validator") else 0
        if start and start == notes["length"]:
            return
        fields = {"Range": f"bytes={start}-", "If-Range": notes["validator"]} if start else {}
        with http_client.get(self.url, fields, self.policy) as response:
            if start and response.status_code == 416:
                self.discard()
                raise TransientError(f"it has no byte {start}: starting again")
            http_client.check_status(response)
            if response.status_code == 206:
                self._check_continuation(response, start, notes)
            else:
                start = 0
                self.discard()
                notes = self._new_notes(response)
                files.write_json(self.notes, notes)
            if notes["length"] is not None:
                self._check_room(notes["length"], start)
            self._append(response, start, notes["length"])
        if notes["length"] is not None and self.size() != notes["length"]:
            raise TransientError(f"ended after {self.size():,} of {notes['length']:,} bytes")

    def _read_notes(self) -> dict[str, Any]:
        """The notes; empty if there are none or they are damaged."""
        try:
            return parse(_Notes, files.read_json(self.notes), str(self.notes)).model_dump()
        except UserError:
            return {}

    def _check_continuation(
        self, response: requests.Response, start: int, notes: Mapping[str, Any]
    ) -> None:
        """Raise `TransientError` unless the response is the rest of the same file."""
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
            raise TransientError("it continues with another part or version: starting again")

    def _new_notes(self, response: requests.Response) -> dict[str, Any]:
        """Notes about a new file: its length, and what identifies this version."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UnavailableError("could not be downloaded: the server sends it compressed only")
        stated = response.headers.get("Content-Length", "")
        length = int(stated) if re.fullmatch(r"\d{1,24}", stated) else None
        if length is None and not self.digest_known and not response.raw.chunked:
            raise UnavailableError("the server does not state its length. Give its sha256")
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        return {"url": redacted(self.url), "length": length, "validator": strong}

    def _check_room(self, length: int, start: int) -> None:
        if length > self.max_bytes:
            self.discard()
            raise UnavailableError(f"has {length:,} bytes, over {self.max_bytes:,}")
        same_disk = self.cache.stat().st_dev == self.destination.stat().st_dev
        needs = {self.cache: length - start, self.destination: 0 if same_disk else length}
        for directory, needed in needs.items():
            free = shutil.disk_usage(directory).free
            if free < needed + DISK_MARGIN:
                raise UserError(
                    f"{redacted(self.url)}: needs {needed:,} bytes, but the disk of {directory} "
                    f"has only {free:,} free, and {DISK_MARGIN:,} must stay free. Make room"
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
                for block in http_client.body(response, self.policy):
                    if done + len(block) > self.max_bytes:
                        self.discard()
                        raise UnavailableError(f"has more than {self.max_bytes:,} bytes")
                    file.write(block)
                    before, done = done, done + len(block)
                    if bar and done // MEGABYTE > before // MEGABYTE:
                        bar.advance(count=done // MEGABYTE - before // MEGABYTE)
                file.flush()
                os.fsync(file.fileno())
        finally:
            if bar:
                bar.close()


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
