"""Locks between processes (flock). The kernel releases them however their holder ends."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.core.errors import UserError


@contextmanager
def locked(
    path: Path, *, wait: bool = True, on_wait: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold the lock file ``path``. It contains the pid of its holder and is never deleted.

    ``on_wait`` is called with that pid before a wait.

    Raises:
        UserError: ``wait`` is false and another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "unknown"
            if not wait:
                raise UserError(
                    f"{path}: in use by process {holder}. Wait for it, or end it: kill {holder}"
                ) from None
            on_wait(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
