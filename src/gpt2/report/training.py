"""Training curves: loss, learning rate and gradient norm."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from gpt2.report.charts import Point, Series, line_chart
from gpt2.report.formats import number
from gpt2.report.inputs import Inputs, Metrics

Curve = Sequence[Mapping[str, float | None]]


class Training(NamedTuple):
    """A training stage: key figures by name, and charts."""

    name: str
    figures: Mapping[str, str]
    loss: Markup
    rates: Mapping[str, Markup]
    """Charts of learning rate and gradient norm, by label."""


def trainings(inputs: Inputs) -> Iterator[Training]:
    """Pretraining and finetuning, if they have run."""
    for stage, name in (("pretrain", "Pretraining"), ("finetune", "Finetuning")):
        curve = inputs.curves.get(stage, [])
        figures = _figures(inputs.metrics)[stage]
        if curve or figures:
            loss = line_chart(
                f"{name}: loss over the steps",
                "optimizer step",
                [
                    Series("training", _points(curve, "loss")),
                    Series("validation", _points(curve, "val_loss"), dots=True),
                ],
            )
            rates = {
                label: line_chart(
                    f"{name}: {label.lower()}",
                    "optimizer step",
                    [Series("rate", points)],
                    y_ticks_wanted=3,
                )
                for label, column in (("Learning rate", "lr"), ("Gradient norm", "grad_norm"))
                if (points := _points(curve, column))
            }
            yield Training(name, figures, loss, rates)


def _points(curve: Curve, column: str) -> list[Point]:
    """Steps and values of ``column``, where it has a value."""
    return [
        (step, value)
        for row in curve
        if (step := row.get("step")) is not None and (value := row.get(column)) is not None
    ]


def _figures(metrics: Metrics) -> dict[str, dict[str, str]]:
    trained, tuned = metrics.pretrain, metrics.finetune
    return {
        "pretrain": {
            "Validation loss": number(trained.val_loss, 3),
            "Perplexity": number(trained.perplexity, 1),
            "Bits per byte": number(trained.bits_per_byte, 3),
        }
        if trained
        else {},
        "finetune": {
            "Validation loss": number(tuned.val_loss, 3),
            "Before finetuning": number(tuned.val_loss_before, 3),
            "Records": number(tuned.train_records),
        }
        if tuned
        else {},
    }
