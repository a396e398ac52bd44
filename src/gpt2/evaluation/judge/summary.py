"""What the judgements of a run come to, in numbers and in words."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import ends_early, has_reasoning
from gpt2.evaluation.judge.runner import Judgement, counts
from gpt2.evaluation.judge.statistics import auc, histogram, mean_difference
from gpt2.evaluation.judge.tasks import VARIANTS, Variant


def summarise(judged: Sequence[Judgement], params: LlamaEvalParams) -> dict[str, Any]:
    """Counts, mean and median of each variant; the lead over the base model; the judge's worth.

    ``reasoned``: replies of which reasoning was removed before they were read.

    Raises:
        UserError: more than ``max_invalid`` of them have no score, or none can be compared.
    """
    failed = [judgement for judgement in judged if judgement.score is None]
    scores = {variant: _scores(judged, variant) for variant in VARIANTS}
    pairs = sorted(scores["finetuned"].keys() & scores["base"].keys())
    comparable = pairs and scores["reference"] and scores["shuffled"]
    if len(failed) > params.max_invalid * len(judged) or not comparable:
        raise UserError(_failure(failed, len(judged), params.max_invalid))
    difference = mean_difference(
        [scores["finetuned"][id] for id in pairs],
        [scores["base"][id] for id in pairs],
        params.bootstrap_samples,
        params.seed,
    )
    control_auc = auc(list(scores["reference"].values()), list(scores["shuffled"].values()))
    return {
        **{
            variant: {
                **counts([judgement for judgement in judged if judgement.variant == variant]),
                "mean": statistics.fmean(scores[variant].values()),
                "median": statistics.median(scores[variant].values()),
            }
            for variant in VARIANTS
        },
        "difference": difference._asdict(),
        "control_auc": control_auc,
        "trusted": control_auc >= params.min_control_auc,
        "reasoned": sum(has_reasoning(judgement.reply or "") for judgement in judged),
    }


def in_words(summary: Mapping[str, Any], min_control_auc: float) -> str:
    """The summary for a reader: what the means are, and whether to believe them."""
    difference = summary["difference"]
    text = (
        f"judged: finetuned {summary['finetuned']['mean']:.1f}, base {summary['base']['mean']:.1f} "
        f"of 100; difference {difference['mean']:+.1f} "
        f"(95% interval {difference['low']:+.1f} to {difference['high']:+.1f})\n"
        f"controls: reference answers {summary['reference']['mean']:.1f}, "
        f"shuffled ones {summary['shuffled']['mean']:.1f}; "
        f"AUC {summary['control_auc']:.2f}, needed {min_control_auc:.2f}: "
    )
    if summary["trusted"]:
        return text + "the judge is trusted"
    return text + (
        "NOT trusted\n"
        "This judge cannot tell right from wrong answers here, so its means prove the plumbing, "
        "not the model. A larger judge can be named in section 'judge' of the parameters."
    )


def histogram_rows(judged: Sequence[Judgement]) -> list[dict[str, object]]:
    """Rows ``variant, score, count``; ``score`` is the lowest of a bin of ten."""
    return [
        {"variant": variant, "score": low, "count": count}
        for variant in VARIANTS
        for low, count in histogram(list(_scores(judged, variant).values())).items()
    ]


def _scores(judged: Sequence[Judgement], variant: Variant) -> dict[int, int]:
    """Score by id."""
    return {
        judgement.id: judgement.score
        for judgement in judged
        if judgement.variant == variant and judgement.score is not None
    }


def _failure(failed: Sequence[Judgement], total: int, max_invalid: float) -> str:
    tally = counts(failed)
    first = failed[0]
    reason = first.error or f"the reply {first.reply!r} is no score"
    if first.reply is not None and ends_early(first.reply):
        reason += (
            ". It ends before the answer: a model that reasons first needs room for that, too, in "
            "llama3_eval.max_tokens"
        )
    return (
        f"{len(failed)} of {total} judgements have no score ({tally['invalid']} invalid, "
        f"{tally['error']} error); llama3_eval.max_invalid allows a share of {max_invalid}.\n"
        f"The first, {first.variant} answer {first.id}: {reason}\n"
        "Finished judgements are kept: mend the cause and run the stage again, it goes on from them"
    )
