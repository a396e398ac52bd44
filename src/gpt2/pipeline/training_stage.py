"""What the two training stages share: micro-batches, and how a history and a model are reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.core import files
from gpt2.data.batch import Batch
from gpt2.pipeline.stage import Run
from gpt2.training.trainer import History, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = Path("plots")


def micro_batches(batch: Batch, size: int | None) -> list[Batch]:
    """``batch`` cut into pieces of ``size`` rows; None: one piece."""
    rows = len(batch.inputs)
    starts = range(0, rows, size or rows)
    pieces = [slice(start, start + (size or rows)) for start in starts]
    return [Batch(batch.inputs[piece], batch.targets[piece]) for piece in pieces]


def report(
    run: Run, history: History, metrics: Mapping[str, Any], model_dir: Path, best_by: str
) -> None:
    """Write the curve to ``plots/`` and the stage's metrics; show the tracker both and the model.

    ``best_by`` is the metric that says which model of this stage is best: the lowest.
    """
    import pandas as pd

    rows = pd.DataFrame(curves(history)).drop(columns=["tokens_per_second", "mfu"])
    files.write_text(PLOTS / f"{run.stage}.csv", rows.to_csv(index=False))
    run.tracker.figure(curves_figure(history), "curves.png")
    run.metrics(
        {**metrics, "train_tokens": history.tokens},
        {
            "train_seconds": round(history.seconds, 1),
            "tokens_per_second": round(history.tokens / history.seconds, 1),
            "mfu": round(history.mfu, 3),
            "peak_memory_mib": round(history.peak_memory_mib, 1),
        },
    )
    run.tracker.model(model_dir, best_by)


def curves_figure(history: History) -> "Figure":
    """Loss, learning rate, gradient norm, outliers and speed over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10), layout="constrained")
    panels = {
        "loss (nats a token)": {"loss": "training", "val_loss": "validation"},
        "learning rate": {"lr": ""},
        "gradient norm, before clipping": {"grad_norm": ""},
        "standard deviations from the last steps": {"loss_z": "loss", "grad_norm_z": "gradient"},
        "tokens a second": {"tokens_per_second": ""},
        "share of the product rate (MFU)": {"mfu": ""},
    }
    points = [*history.curve, *history.evaluations]
    grid = figure.subplots(3, 2, sharex=True)
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=True):
        for key, label in lines.items():
            there = [point for point in points if key in point]
            axes.plot([p["step"] for p in there], [p[key] for p in there], label=label)
        axes.set_title(title, fontsize="medium")
        axes.set_ylim(bottom=0 if {"lr", "tokens_per_second", "mfu"} & lines.keys() else None)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    figure.supxlabel("optimizer step")
    return figure
