"""The histogram of scores: every score once, in rows, CSV and bars."""

import csv
import io

from gpt2.evaluation.judge.histogram import histogram_csv, histogram_figure, histogram_rows
from gpt2.evaluation.judge.runner import Judgement
from gpt2.evaluation.judge.tasks import VARIANTS, Variant


def judgement(id: int, variant: Variant, score: int | None) -> Judgement:
    status = "invalid" if score is None else "scored"
    return Judgement(id, "kind", variant, status, score, "reply", None, "judge", "prompt")


JUDGED = [
    judgement(1, "base", 0),
    judgement(1, "finetuned", 100),
    judgement(2, "finetuned", 95),
    judgement(3, "finetuned", None),
]


def test_rows_and_csv_have_every_score_of_every_variant():
    rows = histogram_rows(JUDGED)
    counted = {(row["variant"], row["score"]): row["count"] for row in rows if row["count"]}
    assert counted == {("finetuned", 90): 2, ("base", 0): 1}
    assert len(rows) == 10 * len(VARIANTS)
    read = list(csv.DictReader(io.StringIO(histogram_csv(rows))))
    assert read == [{key: str(value) for key, value in row.items()} for row in rows]


def test_the_figure_has_a_panel_for_each_variant():
    panels = histogram_figure(histogram_rows(JUDGED)).axes
    assert [axes.get_ylabel() for axes in panels] == list(VARIANTS)
    assert sum(bar.get_height() for bar in panels[0].patches) == 2
