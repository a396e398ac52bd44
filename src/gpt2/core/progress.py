"""Progress of a long task: rate, time left and metrics, as a bar or as lines of a log."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)

PLAIN_INTERVAL = 15.0
"""Seconds between lines if standard error is not a terminal."""


class Progress:
    """A progress bar on a terminal; elsewhere a log line every `PLAIN_INTERVAL` seconds."""

    def __init__(self, name: str, total: int, unit: str, start: int = 0) -> None:
        self._bar = tqdm(
            total=total, initial=start, unit=f" {unit}s", desc=name, disable=not sys.stderr.isatty()
        )
        self._name, self._total, self._unit = name, total, unit
        self._start, self._done = start, start
        self._began = self._logged = time.monotonic()

    def advance(self, figures: str = "", count: int = 1) -> None:
        """Count ``count`` more units as done; show ``figures`` beside the bar."""
        self._done += count
        self._bar.update(count)
        if figures:
            self._bar.set_postfix_str(figures, refresh=False)
        now = time.monotonic()
        if self._bar.disable and now - self._logged >= PLAIN_INTERVAL:
            self._logged = now
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
        """Print a line above the bar."""
        if self._bar.disable:
            log.info("%s: %s", self._name, text)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
