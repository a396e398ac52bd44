"""Statistics of scores: how well two groups are told apart, how sure a difference is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BIN_WIDTH = 10


class Difference(NamedTuple):
    """A mean difference with its 95% confidence interval."""

    mean: float
    low: float
    high: float


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Chance that a right answer scores above a wrong one, a tie counting half (Mann-Whitney).

    1 tells them apart, 0.5 is guessing.

    Raises:
        ValueError: one of the groups is empty.
    """
    if not right or not wrong:
        raise ValueError("the AUC needs at least one score in each group")
    gap = np.subtract.outer(np.asarray(right, float), np.asarray(wrong, float))
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


def mean_difference(
    ours: Sequence[float], theirs: Sequence[float], samples: int, seed: int
) -> Difference:
    """Mean of ``ours[i] - theirs[i]``; interval by percentile bootstrap over the pairs.

    Raises:
        ValueError: no pairs, or not as many of the one as of the other.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} scores: expected pairs, at least one")
    differences = np.subtract(ours, theirs)
    random = np.random.default_rng(seed)
    size = len(differences)
    means = [differences[random.integers(size, size=size)].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))


def histogram(scores: Sequence[int]) -> dict[int, int]:
    """Count of scores in each bin of ten, by its lowest score: 0, 10, ... 90; 100 falls into 90."""
    counts = dict.fromkeys(range(0, 100, BIN_WIDTH), 0)
    for score in scores:
        counts[min(score // BIN_WIDTH, 9) * BIN_WIDTH] += 1
    return counts
