"""Metrics against numbers worked out by hand, and the trivial baselines."""

import pytest

from gpt2 import text_metrics


def test_chrf_of_a_pair_worked_out_by_hand():
    # "abc" / "abd": 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple, on both sides.
    expected = 100 * (2 / 3 + 1 / 2 + 0) / 3
    assert text_metrics.chrf(["abc"], ["abd"]) == pytest.approx(expected)
    assert text_metrics.sentence_chrf(["abc", "xyz"], ["abd", "xyz"]) == pytest.approx(
        [expected, 100]
    )


def test_rouge_l_of_a_pair_worked_out_by_hand():
    # The longest common subsequence is "the cat on mat": precision 4/4, recall 4/6.
    score = text_metrics.rouge_l(["The cat sat on the mat."], ["the cat on mat"])
    assert score == pytest.approx(100 * 2 * (1 * 4 / 6) / (1 + 4 / 6))


def test_exact_match_forgives_outer_space_only():
    references = ["numpy", "numpy", "numpy", "two words"]
    hypotheses = [" numpy\n", "Numpy", "", "two  words"]
    assert text_metrics.exact_match(references, hypotheses) == 25


def test_extremes_of_all_metrics():
    texts = ["Return the rank of a matrix.", "Sort an array in place."]
    assert text_metrics.score(texts, texts) == pytest.approx(
        {"chrf": 100, "rouge_l": 100, "exact_match": 100}
    )
    assert text_metrics.score(texts, ["", ""]) == {"chrf": 0, "rouge_l": 0, "exact_match": 0}


@pytest.mark.parametrize("pair", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_pairs_are_required(pair):
    for metric in (text_metrics.chrf, text_metrics.sentence_chrf, text_metrics.rouge_l):
        with pytest.raises(ValueError, match="expected as many of each"):
            metric(*pair)
    with pytest.raises(ValueError, match="expected as many of each"):
        text_metrics.score(*pair)


def test_most_frequent_answer_and_ties():
    assert text_metrics.most_frequent(["b", "a", "b"]) == "b"
    assert text_metrics.most_frequent(["b", "a"]) == "a"
    with pytest.raises(ValueError, match="empty"):
        text_metrics.most_frequent([])
