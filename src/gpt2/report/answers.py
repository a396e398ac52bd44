"""The report's view of the models' answers: samples, scores by kind, extremes, lengths."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt2.evaluation.judge.tasks import Response
from gpt2.evaluation.text_metrics import sentence_chrf
from gpt2.report import charts
from gpt2.report.formats import number
from gpt2.report.inputs import Judgement, Metrics, Score
from gpt2.report.snapshots import item_key

SAMPLES_PER_KIND = 3
EXTREMES = 4
LENGTH_BINS = 20
MODELS = ("finetuned", "base")


class Kind(NamedTuple):
    """A kind of instruction, with the scores of both models and of trivial answers."""

    name: str
    n: int
    scores: Mapping[str, Score]
    """By name: both models first, then the trivial answers."""
    lead: float | None
    """chrF of the finetuned model minus that of the best trivial answer, if there is one."""


class Extreme(NamedTuple):
    """One of the finetuned model's worst or best answers."""

    response: Response
    score: float


def kinds(metrics: Metrics) -> list[Kind]:
    """The scores of each kind of instruction."""
    answered = metrics.generate_responses
    found = []
    for name, kind in (answered.by_kind if answered else {}).items():
        best = max((score.chrf for score in kind.trivial.values()), default=None)
        scores = {"finetuned": kind.finetuned, "base": kind.base, **kind.trivial}
        lead = None if best is None else kind.finetuned.chrf - best
        found.append(Kind(name, kind.n, scores, lead))
    return found


def mean_chrf(metrics: Metrics) -> dict[str, float]:
    """chrF of both models, averaged over kinds with equal weights; empty without answers."""
    found = kinds(metrics)
    return {
        model: statistics.fmean(kind.scores[model].chrf for kind in found)
        for model in MODELS
        if found
    }


def samples(responses: Sequence[Response]) -> dict[str, list[Response]]:
    """A few evenly spaced responses of each kind, chosen regardless of their scores."""
    chosen = {}
    for kind in sorted({response.kind for response in responses}):
        of_kind = [response for response in responses if response.kind == kind]
        n = min(SAMPLES_PER_KIND, len(of_kind))
        chosen[kind] = [of_kind[index * len(of_kind) // n] for index in range(n)]
    return chosen


def key_of(response: Response) -> str:
    """The key of the item that a response answers, see `item_key`."""
    return item_key(response.instruction, response.input, response.reference)


def item_scores(
    responses: Sequence[Response], judgements: Sequence[Judgement]
) -> dict[str, dict[str, float | None]]:
    """Scores of the finetuned model's answers, by measure ("judge", "chrf") and item key."""
    scores: dict[str, dict[str, float | None]] = {}
    keys = {response.id: key_of(response) for response in responses}
    judged: dict[str, float | None] = {
        keys[judgement.id]: judgement.score
        for judgement in judgements
        if judgement.variant == "finetuned" and judgement.id in keys
    }
    if judged:
        scores["judge"] = judged
    if responses:
        chrf = sentence_chrf(
            [response.reference for response in responses],
            [response.finetuned for response in responses],
        )
        scores["chrf"] = {
            key_of(response): round(score, 2)
            for response, score in zip(responses, chrf, strict=True)
        }
    return scores


def extremes(
    responses: Sequence[Response], scores: Mapping[str, float | None]
) -> tuple[list[Extreme], list[Extreme]]:
    """The worst and the best answers by ``scores``, which are given by item key.

    Kinds take turns. Otherwise a kind with only right or only wrong answers would fill the list.
    """
    ranked = [
        Extreme(response, score)
        for response in responses
        if (score := scores.get(key_of(response))) is not None
    ]
    shown = min(EXTREMES, len(ranked) // 2)
    worst = _in_turns(sorted(ranked, key=lambda extreme: extreme.score))
    best = _in_turns(sorted(ranked, key=lambda extreme: -extreme.score))
    return worst[:shown], best[:shown]


def _in_turns(ranked: Sequence[Extreme]) -> list[Extreme]:
    """The first of each kind, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for extreme in ranked:
        kind = extreme.response.kind
        turns.append((seen[kind], extreme))
        seen[kind] += 1
    return [extreme for _, extreme in sorted(turns, key=lambda turn: turn[0])]


def length_panels(responses: Sequence[Response]) -> list[charts.Panel]:
    """Histograms of lengths in words: of both models' answers and of the references."""
    if not responses:
        return []
    lengths = {
        variant: [len(getattr(response, variant).split()) for response in responses]
        for variant in (*MODELS, "reference")
    }
    longest = max(length for counts in lengths.values() for length in counts)
    edges = [tick for tick in charts.ticks(0, longest + 1, LENGTH_BINS) if tick == int(tick)]
    shown = [
        charts.Sample(
            variant, counts, f"mean {number(statistics.fmean(counts), 1)}; {counts.count(0)} empty"
        )
        for variant, counts in lengths.items()
    ]
    return charts.panels("Words per answer", "words", shown, edges)
