"""Which changes are significant, and which runs can be compared."""

import numpy as np
import pytest

from gpt2.report.comparison import Change, changed, compare, score_change, unpaired_difference
from gpt2.report.formats import NONE
from gpt2.report.snapshots import Snapshot

RANDOM = np.random.default_rng(0)
ITEMS = [f"item {number}" for number in range(60)]
BEFORE = dict(zip(ITEMS, RANDOM.integers(0, 80, 60).tolist(), strict=True))


def snapshot(**changes: object) -> Snapshot:
    facts = {
        "time": "2030-01-01T00:00:00.000+00:00",
        "commit": None,
        "dirty": False,
        "results": "0",
        "params": {},
        "metrics": {},
        "judge": {"judge": "a", "temperature": 0.0},
        "scores": {"judge": BEFORE, "chrf": BEFORE},
    }
    return Snapshot.model_validate(facts | changes)


def test_a_steady_gain_is_significant_only_because_items_are_paired():
    now = {item: score + 5 for item, score in BEFORE.items()}
    change = score_change("judge", BEFORE, now)
    assert change
    assert change.paired
    assert change.difference == pytest.approx((5, 5, 5))
    assert change.significant
    others = {f"other {item}": score for item, score in now.items()}
    apart = score_change("judge", BEFORE, others)
    assert apart
    assert not apart.paired
    assert apart.difference.mean == pytest.approx(5)
    assert not apart.significant


def test_noise_is_not_significant():
    noise = dict(zip(ITEMS, RANDOM.permutation([-20, -7, 1, 6, 20] * 12).tolist(), strict=True))
    now = {item: score + noise[item] for item, score in BEFORE.items()}
    change = score_change("judge", BEFORE, now)
    assert change
    assert change.difference.low < 0 < change.difference.high
    assert not change.significant
    same = score_change("judge", BEFORE, BEFORE)
    assert same
    assert not same.significant


def test_a_large_loss_is_significant_unpaired_too():
    change = score_change("judge", BEFORE, {f"other {i}": s - 60 for i, s in BEFORE.items()})
    assert change
    assert change.significant
    assert change.difference.high < 0
    assert change.items == (60, 60)


def test_the_unpaired_interval_is_as_wide_as_theory_says():
    new, old = RANDOM.normal(5, 10, 400), RANDOM.normal(0, 20, 300)
    found = unpaired_difference(new.tolist(), old.tolist())
    half = 1.96 * np.sqrt(new.var() / 400 + old.var() / 300)
    assert found.mean == pytest.approx(new.mean() - old.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_items_without_a_score_are_not_paired():
    now = {**BEFORE, ITEMS[0]: None}
    change = score_change("judge", BEFORE, now)
    assert change
    assert change.paired
    assert change.items == (59, 59)
    assert score_change("judge", BEFORE, dict.fromkeys(ITEMS)) is None


def test_scores_of_another_judge_are_not_compared_but_chrf_is():
    other = snapshot(judge={"judge": "a", "temperature": 0.5})
    found = compare(snapshot(), other)
    assert found.other_judge
    assert [change.measure for change in found.scores] == ["chrf"]
    found = compare(snapshot(), snapshot())
    assert not found.other_judge
    assert [change.measure for change in found.scores] == ["judge", "chrf"]
    assert not compare(snapshot(judge=None, scores={}), snapshot()).other_judge


def test_changes_are_new_gone_or_different_and_null_is_a_value():
    before = {"a": 1, "b": None, "c": "x", "gone": 2}
    now = {"a": 1, "b": 50, "c": "x", "new": None}
    assert changed(before, now) == [
        Change("b", None, 50),
        Change("new", NONE, None),
        Change("gone", 2, NONE),
    ]


@pytest.mark.parametrize(
    ("key", "before", "now", "better"),
    [
        ("pretrain.val_loss", 3.0, 2.9, True),
        ("pretrain.bits_per_byte", 1.3, 1.4, False),
        ("generate_responses.by_kind.name.finetuned.chrf", 10.0, 12.0, True),
        ("generate_responses.by_kind.name.base.chrf", 10.0, 12.0, None),
        ("llama3_eval.control_auc", 0.9, 0.8, False),
        ("pretrain.parameters", 10, 20, None),
        ("llama3_eval.trusted", False, True, None),
        ("finetune.val_loss", NONE, 2.0, None),
    ],
)
def test_only_some_metrics_have_a_better_direction(key, before, now, better):
    assert Change(key, before, now).better is better
