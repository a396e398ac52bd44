"""Summarises the judgements of a run, as metrics and as text."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import ends_early, has_reasoning
from gpt2.evaluation.judge.runner import Judgement, counts, scores_by_id
from gpt2.evaluation.judge.statistics import auc, mean_difference
from gpt2.evaluation.judge.tasks import VARIANTS


def summarise(judged: Sequence[Judgement], params: LlamaEvalParams) -> dict[str, Any]:
    """Metrics of a run: the variants' scores, the models' difference, and the controls.

    Returns:
        for each variant, counts, mean and median; ``difference`` of finetuned and base model;
        ``control_auc`` and ``trusted``; ``reasoned``, the number of replies with reasoning.

    Raises:
        UserError: a share above ``max_invalid`` has no score, or there is nothing to compare.
    """
    failed = [judgement for judgement in judged if judgement.score is None]
    scores = {variant: scores_by_id(judged, variant) for variant in VARIANTS}
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
    """The summary as text: the means, and whether the judge is trusted."""
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
        "This judge cannot tell right from wrong answers here, so its means say nothing about the "
        "models. Set a larger judge in section 'judge' of the parameters."
    )


def _failure(failed: Sequence[Judgement], total: int, max_invalid: float) -> str:
    tally = counts(failed)
    first = failed[0]
    reason = first.error or f"the reply {first.reply!r} is not a score"
    if first.reply is not None and ends_early(first.reply):
        reason += (
            ". It ends before the answer: a model that reasons first needs room for that too: "
            "raise llama3_eval.max_tokens"
        )
    return (
        f"{len(failed)} of {total} judgements have no score ({tally['invalid']} invalid, "
        f"{tally['error']} error); llama3_eval.max_invalid allows a share of {max_invalid}.\n"
        f"The first, {first.variant} answer {first.id}: {reason}\n"
        "Finished judgements are kept: fix the cause and run the stage again, and it continues "
        "from them"
    )
