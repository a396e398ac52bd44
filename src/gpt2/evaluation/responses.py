"""Automatic evaluation of responses: the test records to answer, scores by kind, and their plots.

The scores compare each response with its reference; `judge` has a language model grade them.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt2.core.errors import UserError
from gpt2.data.records import InstructionRecord, sample_records
from gpt2.data.sources.package_docs import name_as_words
from gpt2.evaluation.text_metrics import most_frequent, score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED = ("chrf", "rouge_l", "exact_match")


def choose_test_records(
    records: Sequence[InstructionRecord], max_records: int | None, seed: int
) -> list[InstructionRecord]:
    """The test records, at most ``max_records`` of each kind, sampled by hash.

    Raises:
        UserError: there is no test record.
    """
    tests = [record for record in records if record.split == "test"]
    chosen: list[InstructionRecord] = []
    for kind in sorted({record.kind for record in tests}):
        of_kind = [record for record in tests if record.kind == kind]
        chosen += sample_records(of_kind, max_records, seed)
    if not chosen:
        raise UserError("the instructions have no record in the test split; give more records")
    return chosen


def response_rows(
    asked: Sequence[InstructionRecord], answers: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """A row for each record: its fields, and its answer by each model."""
    return [
        {
            "id": index,
            "kind": record.kind,
            "input": record.input,
            "reference": record.output,
            **{model: texts[index] for model, texts in answers.items()},
            "name": record.name,
            "instruction": record.instruction,
        }
        for index, record in enumerate(asked)
    ]


def score_by_kind(
    records: Sequence[InstructionRecord],
    asked: Sequence[InstructionRecord],
    answers: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Scores for each kind of record, of the models and of trivial baselines.

    Args:
        records: all records; the baseline ``most_frequent`` uses those of the train split.
        asked: the test records that were answered.
        answers: for each model, its answers to ``asked``.

    Returns:
        for each kind, ``n`` and the scores of each answerer.
    """
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({record.kind for record in asked}):
        rows = [i for i, record in enumerate(asked) if record.kind == kind]
        references = [asked[i].output for i in rows]
        trained = [r.output for r in records if r.kind == kind and r.split == "train"]
        hypotheses = {model: [texts[i] for i in rows] for model, texts in answers.items()}
        hypotheses["most_frequent"] = [most_frequent(trained or [""])] * len(rows)
        if kind == "describe":
            hypotheses["name_as_words"] = [name_as_words(asked[i].name) for i in rows]
        table[kind] = {"n": len(rows)} | {
            answerer: score(references, texts) for answerer, texts in hypotheses.items()
        }
    return table


def scores_csv(by_kind: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of `score_by_kind` as CSV, a line for each kind and answerer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "answerer", *PLOTTED])
    for kind, answerers in by_kind.items():
        for answerer, scores in answerers.items():
            if answerer != "n":
                writer.writerow([kind, answerer, *(f"{scores[key]:.2f}" for key in PLOTTED)])
    return text.getvalue()


def length_figure(answers: Mapping[str, Sequence[str]]) -> "Figure":
    """Histograms of the lengths of each answerer's texts, without the longest 1 %."""
    from matplotlib.figure import Figure

    lengths = {answerer: [len(text) for text in texts] for answerer, texts in answers.items()}
    together = sorted(length for each in lengths.values() for length in each)
    longest = max(together[int(len(together) * 0.99)], 1)
    figure = Figure(figsize=(7, 5), layout="constrained")
    panels = figure.subplots(len(lengths), sharex=True, sharey=True)
    for axes, (answerer, each) in zip(panels, lengths.items(), strict=True):
        axes.hist(each, bins=40, range=(0, longest))
        axes.set_ylabel(answerer)
        axes.grid(alpha=0.3)
    figure.supxlabel("characters in a response")
    return figure
