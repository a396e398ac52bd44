"""Delay Ctrl-C and SIGTERM until the work done so far is saved."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """The signal that has asked this process to stop, or None."""

    signal: int | None = None


@contextmanager
def delayed_interrupts() -> Iterator[Interrupt]:
    """Record the first Ctrl-C or SIGTERM; it takes effect when the body ends.

    The body checks the `Interrupt` where it can stop safely. A second signal stops it at once.
    Ignored signals stay ignored: a shell starts the background jobs of a script without Ctrl-C.
    """
    interrupt = Interrupt()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: old for number, old in handlers.items() if old != signal.SIG_IGN}

    def restore() -> None:
        for number, old in previous.items():
            signal.signal(number, old)

    def record(number: int, frame: FrameType | None) -> None:
        interrupt.signal = number
        restore()

    for number in previous:
        signal.signal(number, record)
    try:
        yield interrupt
    finally:
        restore()
    if interrupt.signal is not None:
        signal.raise_signal(interrupt.signal)
        # If the old handler returns, still exit: the work is not complete.
        sys.exit(128 + interrupt.signal)
