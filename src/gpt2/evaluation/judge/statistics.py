"""Statistics of scores: AUC, mean difference with a confidence interval, histogram."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BIN_WIDTH = 10
"""Scores in a bin of the histogram."""


class Difference(NamedTuple):
    """A mean difference with its 95% confidence interval."""

    mean: float
    low: float
    high: float


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Probability that a right answer scores above a wrong one; a tie counts half (Mann-Whitney).

    1 is perfect separation, 0.5 is guessing.

    Raises:
        ValueError: one of the groups is empty.
    """
    if not right or not wrong:
        raise ValueError("the AUC needs at least one score in each group")
    gap = np.subtract.outer(np.asarray(right, float), np.asarray(wrong, float))
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


def mean_difference(
    first: Sequence[float], second: Sequence[float], samples: int, seed: int
) -> Difference:
    """Mean of ``first[i] - second[i]``, with a percentile bootstrap interval over the pairs.

    Raises:
        ValueError: no pairs, or unequal numbers of scores.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores: expected pairs, at least one")
    differences = np.subtract(first, second)
    random = np.random.default_rng(seed)
    size = len(differences)
    means = [differences[random.integers(size, size=size)].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))


def histogram(scores: Sequence[int]) -> dict[int, int]:
    """Number of scores in each bin, by its lower edge: 0, 10, ... 90. 100 is in the last bin."""
    counts = dict.fromkeys(range(0, 100, BIN_WIDTH), 0)
    for score in scores:
        counts[min(score // BIN_WIDTH, 9) * BIN_WIDTH] += 1
    return counts
