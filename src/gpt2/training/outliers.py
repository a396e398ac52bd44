"""Z-scores of loss and gradient norm over the last steps, to find outliers; as in llm.c."""

import math
import statistics

WINDOW = 128
"""Number of values that a z-score is computed from, the newest included."""


def slid(window: list[float], value: float) -> list[float]:
    """The window with ``value`` appended; values that are not finite are skipped."""
    return [*window, value][-WINDOW:] if math.isfinite(value) else window


def z_score(window: list[float]) -> float | None:
    """Standard deviations of the newest value above the mean; None until the window is full.

    It is a function of the window only, so a resumed run gives the same bits.
    """
    if len(window) < WINDOW:
        return None
    mean = statistics.fmean(window)
    deviation = statistics.pstdev(window, mean)
    return (window[-1] - mean) / deviation if deviation else 0.0
