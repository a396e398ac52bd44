"""The judge: histograms of its scores, and sentences on whether it can be trusted."""

import statistics
from collections.abc import Sequence

from gpt2.core.params import parse
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.statistics import BIN_WIDTH
from gpt2.evaluation.judge.tasks import VARIANTS
from gpt2.report import charts
from gpt2.report.formats import number, signed
from gpt2.report.inputs import Facts, Graded, Inputs, Judged, Judgement


class _Needed(Facts):
    min_control_auc: float = LlamaEvalParams().min_control_auc


def score_panels(judgements: Sequence[Judgement]) -> list[charts.Panel]:
    """A histogram of the judge's scores for each variant that has scores."""
    shown = []
    for variant in VARIANTS:
        scores = [j.score for j in judgements if j.variant == variant and j.score is not None]
        if scores:
            note = f"mean {number(statistics.fmean(scores), 1)}; {len(scores)} answers"
            shown.append(charts.Sample(variant, scores, note))
    return charts.panels("Judge’s scores", "score", shown, range(0, 101, BIN_WIDTH))


def graded(judged: Judged) -> dict[str, Graded]:
    """The judge's summary for each variant."""
    return {variant: getattr(judged, variant) for variant in VARIANTS}


def min_control_auc(inputs: Inputs) -> float:
    """The minimum AUC on controls for a judge to be trusted."""
    section = inputs.params.get("llama3_eval", {})
    return parse(_Needed, section, "llama3_eval").min_control_auc


def verdict(judged: Judged) -> str:
    """Whether the judge's scores measure the quality of answers."""
    if judged.trusted:
        return "It tells right answers from wrong ones, so its scores measure the answers."
    fault = (
        "prefers wrong answers to right ones"
        if judged.control_auc < 0.5
        else "does not tell right answers from wrong ones well enough"
    )
    return (
        f"It {fault}, so its scores only show that the pipeline works, not how good the model "
        "is. To use a larger judge, change section judge of the parameters."
    )


def controls(judged: Judged, needed: float) -> str:
    """The judge's scores of control answers, which are known to be right or wrong."""
    return (
        f"Right answers (the references themselves) get {number(judged.reference.mean, 1)} of 100 "
        f"on average, wrong ones (references of other records, “shuffled”) "
        f"{number(judged.shuffled.mean, 1)}. The probability that a right answer "
        f"scores higher than a wrong one (AUC) is {number(judged.control_auc, 2)}; guessing gives "
        f"0.50, and {number(needed, 2)} is needed."
    )


def lead(judged: Judged) -> str:
    """The finetuned model compared with the base model."""
    mean, low, high = judged.difference.mean, judged.difference.low, judged.difference.high
    significance = "not significant" if low <= 0 <= high else "significant"
    return (
        f"Finetuned minus base, on the same records: {signed(mean)} points, "
        f"95% interval {signed(low)} to {signed(high)}: {significance}."
    )
