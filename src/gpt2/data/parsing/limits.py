"""A file of which only so much is read, and only so much at a time."""

from collections.abc import Iterator
from io import BufferedIOBase

from gpt2.data.parsing.rows import UnreadableError

BLOCK = 2**20


class LimitedFile:
    """A file from where it stands to its end.

    Args:
        file: open.
        largest: bytes of a line or of whatever else is in memory at a time.
        most: bytes that may come of it in all: it may be a bomb.

    All methods raise `UnreadableError` where one of the limits is passed.
    """

    def __init__(self, file: BufferedIOBase, largest: int, most: int) -> None:
        self._file, self.largest, self._most = file, largest, most
        self._total = 0

    def line(self) -> bytes:
        """The next line with its end; empty at the end of the file."""
        line = self._file.readline(self._step())
        self.check_size(len(line))
        return self._counted(line)

    def block(self) -> bytes:
        """About as many of the next bytes as are read at a time; empty at the end."""
        return self._counted(self._file.read(min(BLOCK, self._step())))

    def rest(self) -> bytes:
        """All that is left."""
        content = self._file.read(self._step())
        self.check_size(len(content))
        return self._counted(content)

    def filled_lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of each line that is not blank."""
        number = 0
        while line := self.line():
            number += 1
            if line.strip():
                yield number, line

    def check_size(self, size: int) -> None:
        """Raise `UnreadableError` if so many bytes are too many to hold in memory."""
        if size > self.largest:
            raise UnreadableError(
                f"a text, a line or a list has more than {self.largest:,} bytes, too many to hold "
                "in memory. Divide it; JSON Lines may be as long as they like"
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
            f"archive that expands to more than {most:,} bytes, too many for its length. "
            "Is it a bomb? If not, unpack it"
        )
