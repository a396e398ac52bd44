"""How close texts are to their references, and the trivial answers that a model has to beat.

chrF: Popović 2015 (sacrebleu's defaults: characters 1 to 6, no words, beta 2). ROUGE-L: Lin 2004.
All scores are percentages, 0 to 100.
"""

from collections import Counter
from collections.abc import Sequence


def score(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """All metrics of this module by name; ``hypotheses[i]`` answers ``references[i]``.

    Raises:
        ValueError: no pairs, or not as many hypotheses as references.
    """
    return {
        "chrf": chrf(references, hypotheses),
        "rouge_l": rouge_l(references, hypotheses),
        "exact_match": exact_match(references, hypotheses),
    }


def chrf(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus chrF: n-gram counts are summed over all pairs first, so long texts weigh more."""
    from sacrebleu.metrics.chrf import CHRF

    _check_pairs(references, hypotheses)
    return float(CHRF().corpus_score(list(hypotheses), [list(references)]).score)


def sentence_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """chrF of each pair by itself."""
    from sacrebleu.metrics.chrf import CHRF

    _check_pairs(references, hypotheses)
    metric = CHRF()
    return [
        float(metric.sentence_score(hypothesis, [reference]).score)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


def rouge_l(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Mean F-measure of the longest common subsequence of words (lower-case ``[a-z0-9]+``)."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    _check_pairs(references, hypotheses)
    scorer = RougeScorer(["rougeL"])
    total = sum(
        scorer.score(reference, hypothesis)["rougeL"].fmeasure
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    )
    return float(100 * total / len(references))


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Percentage of equal pairs, space at both ends aside; case and inner space count."""
    _check_pairs(references, hypotheses)
    equal = sum(
        reference.strip() == hypothesis.strip()
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    )
    return 100 * equal / len(references)


def most_frequent(answers: Sequence[str]) -> str:
    """Trivial answer to everything: the commonest of the training answers (a tie: first by text).

    Raises:
        ValueError: no answers.
    """
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if not references or len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} references and {len(hypotheses)} hypotheses: "
            "expected as many of each, at least one"
        )
