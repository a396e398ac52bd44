"""Histogram of the scores of each variant: rows, CSV and figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gpt2.evaluation.judge.runner import Judgement, scores_by_id
from gpt2.evaluation.judge.statistics import BIN_WIDTH, histogram
from gpt2.evaluation.judge.tasks import VARIANTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def histogram_rows(judged: Sequence[Judgement]) -> list[dict[str, object]]:
    """Rows of ``variant``, ``score`` (lower edge of a bin) and ``count``."""
    return [
        {"variant": variant, "score": low, "count": count}
        for variant in VARIANTS
        for low, count in histogram(list(scores_by_id(judged, variant).values())).items()
    ]


def histogram_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The result of `histogram_rows` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def histogram_figure(rows: Sequence[Mapping[str, object]]) -> "Figure":
    """The result of `histogram_rows` as a bar chart for each variant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    for axes, variant in zip(figure.subplots(len(VARIANTS), sharex=True), VARIANTS, strict=True):
        own = [row for row in rows if row["variant"] == variant]
        lows, heights = [row["score"] for row in own], [row["count"] for row in own]
        axes.bar(lows, heights, BIN_WIDTH, align="edge")
        axes.set_ylabel(variant)
    figure.supxlabel("score")
    return figure
