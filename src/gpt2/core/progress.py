"""One line that says how far a long task is: rate, time left, figures; plain lines in a file."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)

PLAIN_INTERVAL = 15.0
"""Seconds between lines where standard error is not a terminal."""


class Progress:
    """A bar on a terminal, a line every 15 s elsewhere."""

    def __init__(self, name: str, total: int, unit: str, start: int = 0) -> None:
        self._bar = tqdm(
            total=total, initial=start, unit=f" {unit}s", desc=name, disable=not sys.stderr.isatty()
        )
        self._name, self._total, self._unit = name, total, unit
        self._start, self._done = start, start
        self._began = self._said = time.monotonic()

    def advance(self, figures: str = "", count: int = 1) -> None:
        """``count`` more are done."""
        self._done += count
        self._bar.update(count)
        if figures:
            self._bar.set_postfix_str(figures, refresh=False)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= PLAIN_INTERVAL:
            self._said = now
            rate = (self._done - self._start) / (now - self._began)
            log.info(
                "%s: %d of %d %ss, %.1f/s, %.0f s left%s",
                self._name,
                self._done,
                self._total,
                self._unit,
                rate,
                (self._total - self._done) / rate,
                f"; {figures}" if figures else "",
            )

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar.disable:
            log.info("%s: %s", self._name, text)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
