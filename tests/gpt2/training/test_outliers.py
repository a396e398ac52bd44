import math
import random
import statistics

from gpt2.training.outliers import WINDOW, slid, z_score


def test_there_is_no_score_until_the_window_is_full() -> None:
    window: list[float] = []
    for value in range(WINDOW - 1):
        window = slid(window, value)
        assert z_score(window) is None
    window = slid(window, WINDOW - 1)
    assert z_score(window) is not None


def test_the_score_counts_standard_deviations_over_the_last_values() -> None:
    draw = random.Random(1)
    values = [draw.gauss(3, 0.1) for _ in range(1000)]
    window: list[float] = []
    for value in values:
        window = slid(window, value)
    last = values[-WINDOW:]
    expected = (last[-1] - statistics.mean(last)) / math.sqrt(statistics.pvariance(last))
    assert abs((z_score(window) or 0) - expected) < 1e-9
    assert (z_score(slid(window, 4.0)) or 0) > 5
    assert (z_score(slid(window, 2.0)) or 0) < -5


def test_constant_and_non_finite_values() -> None:
    window = [2.0] * WINDOW
    assert z_score(window) == 0.0
    assert slid(window, math.inf) == slid(window, math.nan) == window
