"""Standard output and file names in every environment: any encoding, a closed pipe, a full disk."""

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

BROKEN_PIPE = 141
"""Exit status of a program whose output nobody reads any more: 128 + SIGPIPE, as in a shell."""


@contextmanager
def standard_streams(needed: bool) -> Iterator[None]:
    """Make standard output and standard error robust while the body runs.

    Characters that the encoding of a stream lacks are written as escapes, such as ``\\u6458``. If
    writing to standard output fails, the program exits if its output is ``needed``, without a
    message for a closed pipe. Otherwise it continues without output.
    """
    on_error = _exit if needed else _continue
    # A stream that someone has replaced stays as it is.
    out = sys.stdout is sys.__stdout__
    error = sys.stderr is sys.__stderr__
    with (
        redirect_stderr(_robust(sys.stderr, 2, lambda _: None)) if error else nullcontext(),
        redirect_stdout(_robust(sys.stdout, 1, on_error)) if out else nullcontext(),
    ):
        try:
            yield
        finally:
            sys.stdout.flush()


@contextmanager
def file_name_errors() -> Iterator[None]:
    """Turn a file name that the locale cannot encode into a `UserError`.

    Raises:
        UserError: the encoding of the locale lacks a character; that of LC_ALL=C may be ASCII.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        if error.encoding.lower() != sys.getfilesystemencoding() or error.encoding == "utf-8":
            raise
        raise UserError(
            f"{error.object}: not a valid file name in this locale ({error.encoding}). "
            "Set LC_ALL=C.UTF-8"
        ) from error


def _exit(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:
        sys.exit(BROKEN_PIPE)
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    sys.exit(1)


def _continue(error: OSError) -> None:
    if error.errno != errno.EPIPE:
        print(f"note: standard output: {error.strerror}; continuing without it", file=sys.stderr)


def _robust(stream: TextIO | None, number: int, on_error: Callable[[OSError], None]) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # closed by the shell (>&-)
        return Path(os.devnull).open("w", encoding="utf-8")
    raw = _RobustBytes(number, on_error)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _RobustBytes(io.FileIO):
    """A byte stream that reports its first error and discards everything after it."""

    def __init__(self, number: int, on_error: Callable[[OSError], None]) -> None:
        super().__init__(number, "w", closefd=False)
        self._on_error = on_error
        self._failed = False

    # Like io.FileIO, this returns None if a write would block.
    def write(self, data: "Buffer", /) -> int | None:  # type: ignore[override]
        if not self._failed:
            try:
                return super().write(data)
            except OSError as error:
                self._failed = True
                self._on_error(error)
        return memoryview(data).nbytes
