"""Which loss or gradient norm is unusual: z-scores over the last steps, as llm.c prints them."""

import math
import statistics

WINDOW = 128
"""Values that a z-score compares with, the newest among them; before there are as many, none."""


def slid(window: list[float], value: float) -> list[float]:
    """The window after one more value. One that is not finite has no place among the others."""
    return [*window, value][-WINDOW:] if math.isfinite(value) else window


def z_score(window: list[float]) -> float | None:
    """How many standard deviations the newest value lies above the window's mean; None until the
    window is full. It depends on the window alone, so a resumed run has the same bits."""
    if len(window) < WINDOW:
        return None
    mean = statistics.fmean(window)
    deviation = statistics.pstdev(window, mean)
    return (window[-1] - mean) / deviation if deviation else 0.0
