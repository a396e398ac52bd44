"""What the shell gives: standard output of any encoding, closed, unread, full; and a locale."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from gpt2.core.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

NOBODY_READS = 141
"""The exit status of a program whose output is read no longer, as shells give it (SIGPIPE)."""


@contextmanager
def standard_streams(needed: bool) -> Iterator[None]:
    """Characters that a stream's encoding lacks are written as escapes, such as ``\\u6458``.

    Where standard output takes nothing more, a program ends if its output is ``needed``, silently
    if nobody reads it; else it goes on in silence.
    """
    on_loss = _end if needed else _go_on
    # What others have put in their place is theirs.
    out = sys.stdout is sys.__stdout__
    error = sys.stderr is sys.__stderr__
    with (
        redirect_stderr(_tolerant(sys.stderr, 2, lambda _: None)) if error else nullcontext(),
        redirect_stdout(_tolerant(sys.stdout, 1, on_loss)) if out else nullcontext(),
    ):
        try:
            yield
        finally:
            sys.stdout.flush()


@contextmanager
def names_of_files() -> Iterator[None]:
    """A file's name that cannot be said in this locale becomes a message.

    Raises:
        UserError: the locale's encoding lacks a character, as that of LC_ALL=C may.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        if error.encoding.lower() != sys.getfilesystemencoding() or error.encoding == "utf-8":
            raise
        raise UserError(
            f"{error.object}: no name of a file in this locale ({error.encoding}). "
            "Set LC_ALL=C.UTF-8"
        ) from error


def _end(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:
        sys.exit(NOBODY_READS)
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    sys.exit(1)


def _go_on(error: OSError) -> None:
    if error.errno != errno.EPIPE:
        print(f"note: standard output: {error.strerror}; the work goes on", file=sys.stderr)


def _tolerant(stream: TextIO | None, number: int, on_loss: Callable[[OSError], None]) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # closed by the shell (>&-)
        return Path(os.devnull).open("w", encoding="utf-8")
    raw = _Raw(number, on_loss)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Raw(io.FileIO):
    """A stream of bytes that tells the first loss; whatever comes later goes nowhere."""

    def __init__(self, number: int, on_loss: Callable[[OSError], None]) -> None:
        super().__init__(number, "w", closefd=False)
        self._on_loss = on_loss
        self._lost = False

    # None, as of io.FileIO itself, where a write would block.
    def write(self, data: "Buffer", /) -> int | None:  # type: ignore[override]
        if not self._lost:
            try:
                return super().write(data)
            except OSError as error:
                self._lost = True
                self._on_loss(error)
        return memoryview(data).nbytes
