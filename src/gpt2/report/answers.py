"""What the models answered: samples, scores by kind, the worst and the best, lengths."""

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

SAMPLES_OF_A_KIND = 3
EXTREMES = 4
LENGTH_BINS = 20
MODELS = ("finetuned", "base")


class Kind(NamedTuple):
    """A kind of instruction, with the scores of everyone who answers it."""

    name: str
    n: int
    scores: Mapping[str, Score]
    """Both models first, then the trivial answers."""
    lead: float | None
    """chrF of the finetuned model above the best trivial answer; None where there is none."""


class Extreme(NamedTuple):
    """An answer of the finetuned model that is among the worst or the best."""

    response: Response
    score: float


def kinds(metrics: Metrics) -> list[Kind]:
    """The kinds of instruction that were answered."""
    answered = metrics.generate_responses
    found = []
    for name, own in (answered.by_kind if answered else {}).items():
        best = max((score.chrf for score in own.trivial.values()), default=None)
        scores = {"finetuned": own.finetuned, "base": own.base, **own.trivial}
        lead = None if best is None else own.finetuned.chrf - best
        found.append(Kind(name, own.n, scores, lead))
    return found


def mean_chrf(metrics: Metrics) -> dict[str, float]:
    """chrF of both models, all kinds weighing the same; empty where nothing was answered."""
    found = kinds(metrics)
    return {
        model: statistics.fmean(kind.scores[model].chrf for kind in found)
        for model in MODELS
        if found
    }


def samples(responses: Sequence[Response]) -> dict[str, list[Response]]:
    """A few responses of each kind, evenly spaced: not chosen by how good they are."""
    chosen = {}
    for kind in sorted({response.kind for response in responses}):
        own = [response for response in responses if response.kind == kind]
        wanted = min(SAMPLES_OF_A_KIND, len(own))
        chosen[kind] = [own[index * len(own) // wanted] for index in range(wanted)]
    return chosen


def key_of(response: Response) -> str:
    """The item that a response answers."""
    return item_key(response.instruction, response.input, response.reference)


def item_scores(
    responses: Sequence[Response], judgements: Sequence[Judgement]
) -> dict[str, dict[str, float | None]]:
    """Scores of the finetuned model's answers: by measure ("judge", "chrf") and item."""
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
    """The worst and the best answers by ``scores`` (by item).

    Kinds take turns: else one that is all right or all wrong would fill the list.
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
    """The distribution of the answers' lengths in words, with those of the references."""
    if not responses:
        return []
    lengths = {
        variant: [len(getattr(response, variant).split()) for response in responses]
        for variant in (*MODELS, "reference")
    }
    longest = max(length for own in lengths.values() for length in own)
    edges = [tick for tick in charts.ticks(0, longest + 1, LENGTH_BINS) if tick == int(tick)]
    shown = [
        charts.Sample(
            variant, own, f"mean {number(statistics.fmean(own), 1)}; {own.count(0)} empty"
        )
        for variant, own in lengths.items()
    ]
    return charts.panels("Words in an answer", "words", shown, edges)
