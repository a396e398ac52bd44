"""What changed between two runs, and whether score differences are statistically significant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2.evaluation.judge.statistics import Difference, mean_difference
from gpt2.report.formats import NONE
from gpt2.report.snapshots import Snapshot

SAMPLES = 2000
SEED = 0
MEASURES = {"judge": "Judge’s score", "chrf": "chrF, averaged over the answers"}
LOWER_IS_BETTER = ("val_loss", "perplexity", "bits_per_byte")
HIGHER_IS_BETTER = ("chrf", "rouge_l", "exact_match", "control_auc")
BASELINES = ("base", "most_frequent", "name_as_words", "reference", "shuffled")


@dataclass(frozen=True)
class Change:
    """A parameter or metric that changed; a dash stands for a missing value."""

    key: str
    before: Any
    now: Any

    @property
    def difference(self) -> float | None:
        """None unless both values are numbers."""
        numbers = [value for value in (self.before, self.now) if _is_number(value)]
        return numbers[1] - numbers[0] if len(numbers) == 2 else None

    @property
    def better(self) -> bool | None:
        """Whether the model improved; None if the metric has no better direction."""
        *path, name = self.key.split(".")
        if not self.difference or set(path) & {*BASELINES, "difference"}:
            return None
        if name in LOWER_IS_BETTER:
            return self.difference < 0
        return self.difference > 0 if name in HIGHER_IS_BETTER else None


@dataclass(frozen=True)
class ScoreChange:
    """How a mean score of the finetuned model's answers changed."""

    measure: str
    before: float
    now: float
    difference: Difference
    paired: bool
    """Both runs answered the same items, so scores are compared item by item."""
    items: tuple[int, int]
    """Number of scored answers, before and now."""

    @property
    def significant(self) -> bool:
        """Whether the 95% confidence interval of the difference excludes 0."""
        return not self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True)
class Comparison:
    """The differences between two runs."""

    before: Snapshot
    params: Sequence[Change]
    metrics: Sequence[Change]
    scores: Sequence[ScoreChange]
    other_judge: bool
    """The judge or its options changed, so its scores cannot be compared."""


def compare(before: Snapshot, now: Snapshot) -> Comparison:
    """Compare the run ``now`` with the run ``before``."""
    other_judge = None not in (before.judge, now.judge) and before.judge != now.judge
    comparable = [measure for measure in MEASURES if not (other_judge and measure == "judge")]
    changes = [
        score_change(measure, before.scores[measure], now.scores[measure])
        for measure in comparable
        if measure in before.scores and measure in now.scores
    ]
    return Comparison(
        before=before,
        params=changed(before.params, now.params),
        metrics=changed(before.metrics, now.metrics),
        scores=[change for change in changes if change],
        other_judge=other_judge,
    )


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Keys whose values differ, in the order of ``now``, then removed keys."""
    keys = [*now, *(key for key in before if key not in now)]
    return [
        Change(key, before.get(key, NONE), now.get(key, NONE))
        for key in keys
        if before.get(key, NONE) != now.get(key, NONE)
    ]


def score_change(
    measure: str, before: Mapping[str, float | None], now: Mapping[str, float | None]
) -> ScoreChange | None:
    """The difference of the mean scores; None if a run has no scores.

    If both runs have the same items, the comparison is paired and uses the items scored in both.
    """
    paired = before.keys() == now.keys()
    if paired:
        both = [key for key in now if None not in (before[key], now[key])]
        before, now = ({key: run[key] for key in both} for run in (before, now))
    old, new = ([score for score in run.values() if score is not None] for run in (before, now))
    if not old or not new:
        return None
    difference = (
        mean_difference(new, old, SAMPLES, SEED) if paired else unpaired_difference(new, old)
    )
    return ScoreChange(
        measure, float(np.mean(old)), float(np.mean(new)), difference, paired, (len(old), len(new))
    )


def unpaired_difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Mean of ``new`` minus mean of ``old``; the interval is from a bootstrap of each group."""
    random = np.random.default_rng(SEED)

    def resampled(scores: Sequence[float]) -> list[float]:
        drawn = random.integers(len(scores), size=(SAMPLES, len(scores)))
        return list(np.asarray(scores, float)[drawn].mean(axis=1))

    low, high = np.percentile(np.subtract(resampled(new), resampled(old)), [2.5, 97.5])
    return Difference(float(np.mean(new) - np.mean(old)), float(low), float(high))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
