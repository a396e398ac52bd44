"""Ctrl-C and SIGTERM at a moment of our own choosing, when the work done so far is safe."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether somebody has asked to stop."""

    signal: int | None = None


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Note the first Ctrl-C or SIGTERM instead of stopping; it takes effect when the body is left.

    The body looks at the `Interrupt` where stopping is safe. A second signal stops at once. What is
    ignored stays so: a shell script starts its background jobs without Ctrl-C.
    """
    interrupt = Interrupt()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: old for number, old in handlers.items() if old != signal.SIG_IGN}

    def release() -> None:
        for number, old in previous.items():
            signal.signal(number, old)

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.signal = number
        release()

    for number in previous:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        release()
    if interrupt.signal is not None:
        signal.raise_signal(interrupt.signal)
        # A handler that returns must not let half of the work pass for the whole.
        sys.exit(128 + interrupt.signal)
