"""What the two training stages share: micro-batches, and how a history is reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gpt2 import files
from gpt2.batch import Batch
from gpt2.trainer import History, curves
from stages.running import Run

PLOTS = Path("plots")


def micro_batches(batch: Batch, size: int | None) -> list[Batch]:
    """``batch`` cut into pieces of ``size`` rows; None: one piece."""
    rows = len(batch.inputs)
    starts = range(0, rows, size or rows)
    return [Batch(*(t[start : start + (size or rows)] for t in batch)) for start in starts]


def report(run: Run, history: History, metrics: Mapping[str, Any]) -> None:
    """Write the curve to ``plots/``, show it to the tracker, and write the stage's metrics."""
    rows = pd.DataFrame(curves(history)).drop(columns="tokens_per_second")
    files.write_text(PLOTS / f"{run.stage}.csv", rows.to_csv(index=False))
    run.tracker.figure(loss_figure(history), "loss.png")
    run.metrics(
        {**metrics, "train_tokens": history.tokens},
        {
            "train_seconds": round(history.seconds, 1),
            "tokens_per_second": round(history.tokens / history.seconds, 1),
            "peak_memory_mib": round(history.peak_memory_mib, 1),
        },
    )


def loss_figure(history: History) -> Figure:
    """Training and validation loss over the steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for points, key, label in (
        (history.curve, "loss", "training"),
        (history.evaluations, "val_loss", "validation"),
    ):
        axes.plot([p["step"] for p in points], [p[key] for p in points], label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
