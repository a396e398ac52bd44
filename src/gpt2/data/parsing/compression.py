"""Compressed files (``.gz``, ``.bz2``, ``.xz``, ``.zst``), decompressed block by block."""

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
"""Bytes of a Zstandard stream that are decompressed at a time: pyarrow never frees the buffer of a
read that fails."""


class ZstandardFile(BufferedReader):
    """As `gzip.GzipFile`, for ``.zst``."""

    def __init__(self, file: BufferedIOBase) -> None:
        super().__init__(_RawZstandard(file))


class _RawZstandard(RawIOBase):
    """A Zstandard stream, which the standard library does not support yet."""

    def __init__(self, file: BufferedIOBase) -> None:
        import pyarrow as pa

        self._stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")

    def readable(self) -> bool:
        """True; the stream supports nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to `CHUNK` bytes into the buffer; their number."""
        content: bytes = self._stream.read(min(len(buffer), CHUNK))
        buffer[: len(content)] = content
        return len(content)


def _gzip(file: BufferedIOBase) -> BufferedIOBase:
    return gzip.GzipFile(fileobj=file, mode="rb")


def _xz(file: BufferedIOBase) -> BufferedIOBase:
    return lzma.LZMAFile(cast(IO[bytes], file))


Decompressed = bz2.BZ2File | gzip.GzipFile | lzma.LZMAFile | ZstandardFile
DECOMPRESSORS: dict[str, Callable[[BufferedIOBase], BufferedIOBase]] = {
    ".bz2": bz2.BZ2File,
    ".gz": _gzip,
    ".xz": _xz,
    ".zst": ZstandardFile,
}
"""The function for each suffix that opens a compressed file."""


@contextmanager
def report_damage() -> Iterator[None]:
    """Turn the exceptions of decompression for damaged files into `UnreadableError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UnreadableError(f"damaged archive ({error})") from error
    except MemoryError as error:  # the dictionary of .xz has up to 4 GiB
        raise UnreadableError("needs more memory to unpack than there is. Repack it") from error
    except OSError as error:
        if error.errno is not None:  # an error of the file system, not of the data
            raise
        raise UnreadableError(f"damaged archive ({error})") from error
