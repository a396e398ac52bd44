"""What changed between two runs, and whether the model's scores changed by more than chance."""

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
    """A parameter or a metric with another value than before; a dash stands for none."""

    key: str
    before: Any
    now: Any

    @property
    def difference(self) -> float | None:
        """None where there is none: of texts, or of something new."""
        numbers = [value for value in (self.before, self.now) if _is_number(value)]
        return numbers[1] - numbers[0] if len(numbers) == 2 else None

    @property
    def better(self) -> bool | None:
        """Whether a metric of the model improved; None where there is no better."""
        *path, name = self.key.split(".")
        if not self.difference or set(path) & {*BASELINES, "difference"}:
            return None
        if name in LOWER_IS_BETTER:
            return self.difference < 0
        return self.difference > 0 if name in HIGHER_IS_BETTER else None


@dataclass(frozen=True)
class ScoreChange:
    """How one measure of the finetuned model's answers changed."""

    measure: str
    before: float
    now: float
    difference: Difference
    paired: bool
    """Both runs answered the same items, which are compared one by one."""
    items: tuple[int, int]
    """Answers with a score: before and now."""

    @property
    def certain(self) -> bool:
        """Whether the difference is larger than its 95% confidence interval: that excludes 0."""
        return not self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    before: Snapshot
    params: Sequence[Change]
    metrics: Sequence[Change]
    scores: Sequence[ScoreChange]
    other_judge: bool
    """Another judge, or one with other options, graded this run: its scores do not compare."""


def compare(before: Snapshot, now: Snapshot) -> Comparison:
    """``now`` against ``before``."""
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
    """The keys whose values differ, in the order of ``now``, then those that are gone."""
    keys = [*now, *(key for key in before if key not in now)]
    return [
        Change(key, before.get(key, NONE), now.get(key, NONE))
        for key in keys
        if before.get(key, NONE) != now.get(key, NONE)
    ]


def score_change(
    measure: str, before: Mapping[str, float | None], now: Mapping[str, float | None]
) -> ScoreChange | None:
    """The difference of the means; None where one of the runs has no score.

    Paired where both runs have the same items, over those with a score in both.
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


def unpaired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of ``ours`` minus mean of ``theirs``; interval by bootstrap of each group by itself."""
    random = np.random.default_rng(SEED)

    def resampled(scores: Sequence[float]) -> list[float]:
        drawn = random.integers(len(scores), size=(SAMPLES, len(scores)))
        return list(np.asarray(scores, float)[drawn].mean(axis=1))

    low, high = np.percentile(np.subtract(resampled(ours), resampled(theirs)), [2.5, 97.5])
    return Difference(float(np.mean(ours) - np.mean(theirs)), float(low), float(high))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
