"""The judge: the distribution of its scores, and what the controls say about it, in words."""

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
    """The distribution of the judge's scores of each variant that has any."""
    shown = []
    for variant in VARIANTS:
        scores = [j.score for j in judgements if j.variant == variant and j.score is not None]
        if scores:
            note = f"mean {number(statistics.fmean(scores), 1)}; {len(scores)} answers"
            shown.append(charts.Sample(variant, scores, note))
    return charts.panels("Judge’s scores", "score", shown, range(0, 101, BIN_WIDTH))


def graded(judged: Judged) -> dict[str, Graded]:
    """The summary of each variant."""
    return {variant: getattr(judged, variant) for variant in VARIANTS}


def min_control_auc(inputs: Inputs) -> float:
    """The AUC on controls from which a judge is trusted."""
    section = inputs.params.get("llama3_eval", {})
    return parse(_Needed, section, "llama3_eval").min_control_auc


def verdict(judged: Judged) -> str:
    """What the judge's scores are worth."""
    if judged.trusted:
        return "It tells right answers from wrong ones, so its scores measure the answers."
    fault = (
        "prefers wrong answers to right ones"
        if judged.control_auc < 0.5
        else "does not tell right answers from wrong ones well enough"
    )
    return (
        f"It {fault}, so its scores prove that the plumbing works, and nothing about the model. "
        "A larger judge can be named in section judge of the parameters."
    )


def controls(judged: Judged, needed: float) -> str:
    """What the control answers got, whose worth is known beforehand."""
    return (
        f"Right answers (the references themselves) get {number(judged.reference.mean, 1)} of 100 "
        f"on average, wrong ones (references of other records, “shuffled”) "
        f"{number(judged.shuffled.mean, 1)}. A right answer scores above a wrong one with a "
        f"chance (AUC) of {number(judged.control_auc, 2)}; guessing gives 0.50, "
        f"and {number(needed, 2)} is needed."
    )


def lead(judged: Judged) -> str:
    """The finetuned model against the base model."""
    mean, low, high = judged.difference.mean, judged.difference.low, judged.difference.high
    chance = "so it may be chance" if low <= 0 <= high else "so it is more than chance"
    return (
        f"Finetuned minus base, on the same records: {signed(mean)} points, "
        f"95% interval {signed(low)} to {signed(high)}, {chance}."
    )
