"""Statistics compared with worked examples and a plain count."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from gpt2.evaluation.judge.statistics import auc, histogram, mean_difference


def test_auc_of_perfect_useless_and_reversed_judges():
    assert auc([90, 80], [10, 20]) == 1
    assert auc([50, 50], [50, 50, 50]) == 0.5
    assert auc([1], [2]) == 0


def test_auc_counts_ties_half_like_scipy():
    random = np.random.default_rng(0)
    right, wrong = random.integers(0, 6, 30).tolist(), random.integers(0, 5, 20).tolist()
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a, b in product(right, wrong)])
    assert auc(right, wrong) == pytest.approx(by_hand)
    assert auc(right, wrong) == pytest.approx(mannwhitneyu(right, wrong).statistic / (30 * 20))


@pytest.mark.parametrize(("right", "wrong"), [([], [1]), ([1], [])])
def test_auc_needs_both_groups(right, wrong):
    with pytest.raises(ValueError, match="at least one score"):
        auc(right, wrong)


def test_mean_difference_is_paired_and_seeded():
    random = np.random.default_rng(0)
    theirs = random.integers(0, 100, 50)
    ours = theirs + 3  # always 3 better, however much the items differ
    assert mean_difference(ours.tolist(), theirs.tolist(), 200, seed=1) == (3, 3, 3)
    noisy = (ours + random.integers(-20, 20, 50)).tolist()
    first = mean_difference(noisy, theirs.tolist(), 500, seed=1)
    assert first == mean_difference(noisy, theirs.tolist(), 500, seed=1)
    assert first.low < first.mean < first.high


def test_bootstrap_interval_is_as_wide_as_theory_says():
    differences = np.random.default_rng(0).normal(5, 10, 400)
    result = mean_difference(differences.tolist(), [0.0] * 400, 2000, seed=1)
    half_width = 1.96 * differences.std() / 20
    assert result.high - result.mean == pytest.approx(half_width, rel=0.1)
    assert result.mean - result.low == pytest.approx(half_width, rel=0.1)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1, 2], [1])])
def test_mean_difference_needs_pairs(ours, theirs):
    with pytest.raises(ValueError, match="expected pairs"):
        mean_difference(ours, theirs, 10, seed=1)


def test_histogram_has_ten_bins_and_loses_nothing():
    counted = histogram(list(range(101)))
    assert list(counted) == list(range(0, 100, 10))
    assert counted[0] == 10
    assert counted[90] == 11
    assert sum(counted.values()) == 101
