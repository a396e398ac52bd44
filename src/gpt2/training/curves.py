"""The curves of a run: a CSV file for DVC, a figure for the tracker."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.core import files
from gpt2.tracking.tracker import Tracker
from gpt2.training.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "loss (nats per token)": {"loss": "training", "val_loss": "validation"},
    "learning rate": {"lr": ""},
    "gradient norm, before clipping": {"grad_norm": ""},
    "z-score within the last steps": {"loss_z": "loss", "grad_norm_z": "gradient"},
    "tokens per second": {"tokens_per_second": ""},
    "model FLOPs utilisation (MFU)": {"mfu": ""},
}
"""The curves in each panel of the figure, with their labels."""
SPEED = ("tokens_per_second", "mfu")
"""What differs from run to run, and so is not written for DVC."""


def write_curves(history: History, path: Path, tracker: Tracker) -> None:
    """Write the curves to ``path``, a CSV file, and log their figure."""
    import pandas as pd

    rows = pd.DataFrame(curve_rows(history)).drop(columns=list(SPEED))
    files.write_text(path, rows.to_csv(index=False))
    tracker.figure(curves_figure(history), "curves.png")


def curve_rows(history: History) -> list[Mapping[str, Any]]:
    """The history as one table: a row for each step, with the values that are known there."""
    rows: dict[float, dict[str, Any]] = {}
    for point in [*history.curve, *history.evaluations]:
        rows.setdefault(point["step"], {}).update(point)
    return [rows[step] for step in sorted(rows)]


def curves_figure(history: History) -> "Figure":
    """Loss, learning rate, gradient norm, z-scores and speed over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10), layout="constrained")
    points = [*history.curve, *history.evaluations]
    grid = figure.subplots(3, 2, sharex=True)
    for axes, (title, lines) in zip(grid.flat, PANELS.items(), strict=True):
        for key, label in lines.items():
            known = [point for point in points if key in point]
            axes.plot([p["step"] for p in known], [p[key] for p in known], label=label)
        axes.set_title(title, fontsize="medium")
        axes.set_ylim(bottom=0 if {"lr", *SPEED} & lines.keys() else None)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    figure.supxlabel("optimizer step")
    return figure
