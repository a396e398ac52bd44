"""Compressed files (``.gz``, ``.bz2``, ``.xz``, ``.zst``), unpacked a little at a time."""

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader, RawIOBase
from typing import IO, Any, cast

from gpt2.data.parsing.rows import UnreadableError

CHUNK = 2**16
"""Bytes of a Zstandard stream that are unpacked at a time: pyarrow never frees what it took for a
reading that fails."""


def _gzip(file: BufferedIOBase) -> BufferedIOBase:
    return gzip.GzipFile(fileobj=file, mode="rb")


class _Raw(RawIOBase):
    """A stream of Zstandard, which the standard library does not have yet."""

    def __init__(self, file: BufferedIOBase) -> None:
        import pyarrow as pa

        self._stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")

    def readable(self) -> bool:
        """It is all that it can."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one reading does."""
        content: bytes = self._stream.read(min(len(buffer), CHUNK))
        buffer[: len(content)] = content
        return len(content)


class ZstandardFile(BufferedReader):
    """As `gzip.GzipFile`, for ``.zst``."""

    def __init__(self, file: BufferedIOBase) -> None:
        super().__init__(_Raw(file))


def _xz(file: BufferedIOBase) -> BufferedIOBase:
    return lzma.LZMAFile(cast(IO[bytes], file))


Unpacked = bz2.BZ2File | gzip.GzipFile | lzma.LZMAFile | ZstandardFile
UNPACKED: dict[str, Callable[[BufferedIOBase], BufferedIOBase]] = {
    ".bz2": bz2.BZ2File,
    ".gz": _gzip,
    ".xz": _xz,
    ".zst": ZstandardFile,
}
"""What a suffix says, as a function of the packed file."""


@contextmanager
def damage_told() -> Iterator[None]:
    """What unpacking raises for damaged files becomes `UnreadableError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UnreadableError(f"damaged archive ({error})") from error
    except MemoryError as error:  # the dictionary of .xz has up to 4 GiB
        raise UnreadableError("takes more memory to unpack than there is. Repack it") from error
    except OSError as error:
        if error.errno is not None:  # of the file system: no one's data is wrong
            raise
        raise UnreadableError(f"damaged archive ({error})") from error
