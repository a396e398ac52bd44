"""The page: one HTML file that needs neither a network nor JavaScript."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gpt2.report import answers, comparison, formats, judging, overview, training
from gpt2.report.comparison import Comparison
from gpt2.report.inputs import Inputs
from gpt2.report.machine import Machine

TEMPLATE = "page.html.jinja"
FILTERS = (
    *("number", "signed", "compact", "duration", "memory"),
    *("metric", "metric_change", "parameter", "clip"),
)
"""Functions of `formats` that the template uses."""


def render(
    inputs: Inputs,
    scores: Mapping[str, Mapping[str, float | None]],
    params: Mapping[str, Any],
    against: Comparison | None,
    machine: Machine,
    now: datetime,
) -> str:
    """The report as HTML, a pure function of its arguments. All texts are escaped.

    Args:
        scores: by measure and item key, from `item_scores`.
        params: by dotted key.
        against: the comparison with the previous run, if there is one.
    """
    judged = inputs.metrics.llama3_eval
    measure = "judge" if judged and judged.trusted and "judge" in scores else "chrf"
    worst, best = answers.extremes(inputs.responses, scores.get(measure, {}))
    needed = judging.min_control_auc(inputs)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            inputs=inputs,
            machine=machine,
            now=now,
            headline=overview.headline(inputs.metrics),
            tiles=list(overview.tiles(inputs.metrics)),
            against=against,
            measures=comparison.MEASURES,
            stages=overview.stage_rows(inputs),
            total_seconds=overview.total_seconds(inputs),
            trainings=list(training.trainings(inputs)),
            samples=answers.samples(inputs.responses),
            kinds=answers.kinds(inputs.metrics),
            judged=judged,
            verdict=judging.verdict(judged) if judged else "",
            controls=judging.controls(judged, needed) if judged else "",
            lead=judging.lead(judged) if judged else "",
            graded=judging.graded(judged) if judged else {},
            score_panels=judging.score_panels(inputs.judgements),
            measure=measure,
            worst=worst,
            best=best,
            length_panels=answers.length_panels(inputs.responses),
            cost=list(overview.cost(inputs)),
            params=params,
        )
    )


def _environment() -> Environment:
    # jinja2 is a dependency of torch.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in FILTERS}
    return environment
