"""The run at a glance: its result in a sentence, key figures, the stages, the cost."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from gpt2.report.answers import mean_chrf
from gpt2.report.formats import compact, duration, memory, number
from gpt2.report.inputs import Inputs, Metrics


class Tile(NamedTuple):
    """A figure with a name and a note."""

    name: str
    value: str
    note: str


class StageRow(NamedTuple):
    """A stage: its key figure, and when and for how long it last ran."""

    name: str
    figure: str | None
    """None if there are no metrics yet."""
    ran: datetime | None
    seconds: float | None
    share: float
    """Share of the total time, in percent."""


def headline(metrics: Metrics) -> str:
    """The result in a sentence: the finetuned model's score, and whether the judge is trusted."""
    judged, means = metrics.llama3_eval, mean_chrf(metrics)
    if judged and judged.trusted:
        return (
            f"The finetuned model scores {number(judged.finetuned.mean, 1)} of 100, "
            f"the base model {number(judged.base.mean, 1)}, and the judge is trusted."
        )
    if not means:
        return "This run has no answers yet."
    sentence = (
        f"The finetuned model’s answers reach chrF {number(means['finetuned'], 1)}, "
        f"the base model’s {number(means['base'], 1)}"
    )
    if judged:
        score = number(judged.finetuned.mean, 1)
        return f"{sentence}. The judge’s score, {score} of 100, is not trusted."
    return f"{sentence}. The answers have not been judged yet."


def tiles(metrics: Metrics) -> Iterator[Tile]:
    """The key figure of each part of the pipeline that has run."""
    if trained := metrics.pretrain:
        note = f"pretraining; perplexity {number(trained.perplexity, 1)}"
        yield Tile("Bits per byte", number(trained.bits_per_byte, 3), note)
    if tuned := metrics.finetune:
        note = f"finetuning; {number(tuned.val_loss_before, 3)} before"
        yield Tile("Validation loss", number(tuned.val_loss, 3), note)
    if means := mean_chrf(metrics):
        note = f"mean over kinds; base {number(means['base'], 1)}"
        yield Tile("chrF", number(means["finetuned"], 1), note)
    if judged := metrics.llama3_eval:
        trust = "trusted" if judged.trusted else "not trusted"
        note = f"of 100; base {number(judged.base.mean, 1)}; {trust}"
        yield Tile("Judge’s score", number(judged.finetuned.mean, 1), note)


def stage_rows(inputs: Inputs) -> list[StageRow]:
    """A row for each stage of the pipeline."""
    figures = _key_figures(inputs.metrics)
    total = total_seconds(inputs) or 1
    rows = []
    for stage in inputs.stages:
        seconds = inputs.speed[stage].wall_seconds if stage in inputs.speed else None
        rows.append(
            StageRow(
                stage.replace("_", "-"),
                figures.get(stage),
                inputs.ran.get(stage),
                seconds,
                100 * (seconds or 0) / total,
            )
        )
    return rows


def total_seconds(inputs: Inputs) -> float:
    """Seconds of all stages together."""
    return sum(speed.wall_seconds for speed in inputs.speed.values())


def cost(inputs: Inputs) -> Iterator[Tile]:
    """Time, tokens and memory of the run, as far as they are known."""
    if inputs.speed:
        yield Tile("Time", duration(total_seconds(inputs)), "all stages together")
    for stage, name, part in (
        ("pretrain", "Pretraining tokens", inputs.metrics.pretrain),
        ("finetune", "Finetuning tokens", inputs.metrics.finetune),
    ):
        if part:
            rate = inputs.speed[stage].tokens_per_second if stage in inputs.speed else None
            note = f"{number(rate)} tokens/s" if rate else "speed unknown"
            yield Tile(name, compact(part.train_tokens), note)
    peaks = [(speed.peak_memory_mib or 0, stage) for stage, speed in inputs.speed.items()]
    if peaks and max(peaks)[0]:
        mebibytes, stage = max(peaks)
        yield Tile("Peak memory", memory(mebibytes), f"in {stage}")


def _key_figures(metrics: Metrics) -> dict[str, str]:
    """The result of each stage in a few words."""
    figures = {}
    if got := metrics.download:
        records = sum(count for splits in got.instructions.values() for count in splits.values())
        figures["download"] = f"{number(got.documents)} documents, {number(records)} instructions"
    if cut := metrics.tokenize:
        figures["tokenize"] = (
            f"{compact(cut.train.tokens)} training tokens, "
            f"{number(cut.bytes_per_token, 2)} bytes per token"
        )
    if trained := metrics.pretrain:
        figures["pretrain"] = (
            f"{compact(trained.parameters)} parameters, "
            f"{number(trained.bits_per_byte, 3)} bits per byte"
        )
    if weights := metrics.download_gpt2_weights:
        unused = weights.size == "none"
        figures["download_gpt2_weights"] = "not used" if unused else f"GPT-2 {weights.size}"
    if tuned := metrics.finetune:
        figures["finetune"] = (
            f"validation loss {number(tuned.val_loss_before, 3)} → {number(tuned.val_loss, 3)}"
        )
    if answered := metrics.generate_responses:
        figures["generate_responses"] = f"{number(answered.n_records)} test records answered"
    if judged := metrics.llama3_eval:
        figures["llama3_eval"] = (
            f"finetuned {number(judged.finetuned.mean, 1)}, base {number(judged.base.mean, 1)}"
            f"; judge {'trusted' if judged.trusted else 'not trusted'}"
        )
    return figures
