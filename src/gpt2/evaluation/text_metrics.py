"""Similarity of texts to their references: chrF, ROUGE-L and exact match; a trivial baseline.

chrF: Popović 2015 (sacrebleu's defaults: characters 1 to 6, no words, beta 2). ROUGE-L: Lin 2004.
All scores are percentages from 0 to 100, for texts in any script. Texts are normalised to NFC
first: "é" equals "e" with a combining accent.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

# Scripts without spaces between words. LB=SA: Thai, Lao, Khmer, Burmese and similar scripts.
_SPACELESS = (
    r"[[\p{Han}\p{scx=Hira}\p{scx=Kana}\p{Bopo}\p{Yi}\p{Java}\p{Bali}\p{LB=SA}]&&[\p{L}\p{N}]]"
)
# Words of letters and digits with their marks and joiners. \X is a character with its marks.
_WORDS = rf"(?V1)(?={_SPACELESS})\X|(?:[[\p{{L}}\p{{N}}]--{_SPACELESS}][\p{{M}}\u200c\u200d]*)+"
_WORDS_AND_SIGNS = rf"{_WORDS}|(?=\S)\X"


def score(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """All metrics of this module, by name. ``hypotheses[i]`` is compared with ``references[i]``.

    Raises:
        ValueError: no pairs, or unequal numbers of references and hypotheses.
    """
    return {
        "chrf": chrf(references, hypotheses),
        "rouge_l": rouge_l(references, hypotheses),
        "exact_match": exact_match(references, hypotheses),
    }


def chrf(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus chrF: n-gram counts are summed over all pairs, so longer texts weigh more."""
    from sacrebleu.metrics.chrf import CHRF

    _check_pairs(references, hypotheses)
    score = CHRF().corpus_score([*map(_composed, hypotheses)], [[*map(_composed, references)]])
    return float(score.score)


def sentence_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """chrF of each pair."""
    from sacrebleu.metrics.chrf import CHRF

    _check_pairs(references, hypotheses)
    metric = CHRF()
    return [
        float(metric.sentence_score(_composed(hypothesis), [_composed(reference)]).score)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


def rouge_l(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Mean F-measure of the longest common subsequence of words, ignoring case.

    For English it equals rouge_score's, whose words are ``[a-z0-9]+`` only. Here a word is a
    sequence of letters and digits of any script; in scripts without spaces, each character is a
    word. Punctuation counts only if the reference has no word (``{ } ;``). An empty reference
    scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    _check_pairs(references, hypotheses)
    words, signs = _Tokenizer(_WORDS), _Tokenizer(_WORDS_AND_SIGNS)
    of_words, of_signs = (RougeScorer(["rougeL"], tokenizer=kind) for kind in (words, signs))
    total = 0.0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        scorer = of_words if words.tokenize(reference) else of_signs
        total += scorer.score(reference, hypothesis)["rougeL"].fmeasure
    return float(100 * total / len(references))


@dataclass(frozen=True)
class _Tokenizer:
    """Tokenizer in the form that rouge_score expects."""

    pattern: str

    def tokenize(self, text: str) -> list[str]:
        return list(regex.findall(self.pattern, _composed(text).casefold()))


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Percentage of equal pairs, ignoring white space at both ends. Case and inner space count."""
    _check_pairs(references, hypotheses)
    equal = sum(
        _composed(reference).strip() == _composed(hypothesis).strip()
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    )
    return 100 * equal / len(references)


def most_frequent(answers: Sequence[str]) -> str:
    """A trivial baseline: the most frequent training answer (of ties, the first by text).

    Raises:
        ValueError: no answers.
    """
    counts = Counter(map(_composed, answers))
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if not references or len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} references and {len(hypotheses)} hypotheses: "
            "expected equal numbers, at least one"
        )
