"""A file with limits on its total size and on what is in memory at a time."""

from collections.abc import Iterator
from io import BufferedIOBase

from gpt2.data.parsing.rows import UnreadableError

BLOCK = 2**20


class LimitedFile:
    """A file from its current position to its end.

    Args:
        file: open.
        largest: largest number of bytes in memory at a time, for example of a line.
        most: largest number of bytes in total: a compressed file may be a bomb.

    All methods raise `UnreadableError` if a limit is exceeded.
    """

    def __init__(self, file: BufferedIOBase, largest: int, most: int) -> None:
        self._file, self.largest, self._most = file, largest, most
        self._total = 0

    def line(self) -> bytes:
        """The next line with its line end; empty at the end of the file."""
        line = self._file.readline(self._step())
        self.check_size(len(line))
        return self._counted(line)

    def block(self) -> bytes:
        """The next `BLOCK` bytes or fewer; empty at the end of the file."""
        return self._counted(self._file.read(min(BLOCK, self._step())))

    def rest(self) -> bytes:
        """Everything up to the end of the file."""
        content = self._file.read(self._step())
        self.check_size(len(content))
        return self._counted(content)

    def non_blank_lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of each line that is not blank."""
        number = 0
        while line := self.line():
            number += 1
            if line.strip():
                yield number, line

    def check_size(self, size: int) -> None:
        """Raise `UnreadableError` if ``size`` bytes are too many to hold in memory."""
        if size > self.largest:
            raise UnreadableError(
                f"a text, a line or a list has more than {self.largest:,} bytes, too many to hold "
                "in memory. Divide it; a JSON Lines file may have any length"
            )

    def _step(self) -> int:
        return min(self.largest, self._most) + 1

    def _counted(self, content: bytes) -> bytes:
        self._total += len(content)
        check_expansion(self._total, self._most)
        return content


def check_expansion(size: int, most: int) -> None:
    """Raise `UnreadableError` if an archive expands to more than ``most`` bytes."""
    if size > most:
        raise UnreadableError(
            f"archive that expands to more than {most:,} bytes, too many for its size. "
            "It may be a zip bomb. If it is not, unpack it"
        )
