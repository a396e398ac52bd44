import json
import time
from pathlib import Path

import torch

from gpt2.data.batch import Batch
from gpt2.pipeline.stage import Run
from gpt2.pipeline.training_stage import curves_figure, micro_batches, report
from gpt2.tracking.tracker import NullTracker
from gpt2.training.trainer import History


def test_micro_batches_are_the_rows_in_order():
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(10, 20).view(5, 2))
    assert micro_batches(batch, None)[0].inputs.tolist() == batch.inputs.tolist()
    parts = micro_batches(batch, 2)
    assert [len(part.inputs) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_the_figure_shows_every_curve():
    point = {"lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 100.0, "mfu": 0.5}
    scores = {"loss_z": -0.5, "grad_norm_z": 2.0}
    history = History(
        curve=[{"step": 0, "loss": 3.0, **point}, {"step": 1, "loss": 2.0, **point, **scores}],
        evaluations=[{"step": 0, "val_loss": 3.1}, {"step": 2, "val_loss": 2.5}],
    )
    panels = curves_figure(history).axes
    lines = [[line.get_ydata().tolist() for line in axes.lines] for axes in panels]
    assert lines == [
        *([[3.0, 2.0], [3.1, 2.5]], [[0.1, 0.1]], [[1.0, 1.0]]),
        *([[-0.5], [2.0]], [[100.0, 100.0]], [[0.5, 0.5]]),
    ]
    assert panels[0].get_title() == "loss (nats a token)"


def test_what_differs_from_run_to_run_stays_out_of_the_plots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    point = {"loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 9.0, "mfu": 0.5}
    history = History(
        curve=[{"step": 0, **point}, {"step": 1, **point, "loss_z": 0.5, "grad_norm_z": -1.0}],
        evaluations=[{"step": 0, "val_loss": 3.1}],
        tokens=1000,
        flops=5e9,
        seconds=2.0,
        product_rate=1e10,
    )
    run = Run("pretrain", Path("params.yaml"), {}, tmp_path, NullTracker(), time.monotonic())
    report(run, history, {"val_loss": 3.1}, tmp_path, best_by="val_loss")
    assert Path("plots/pretrain.csv").read_text(encoding="utf-8") == (
        "step,loss,lr,grad_norm,val_loss,loss_z,grad_norm_z\n"
        "0,3.0,0.1,1.0,3.1,,\n"
        "1,3.0,0.1,1.0,,0.5,-1.0\n"
    )
    assert json.loads(Path("metrics/pretrain.json").read_text(encoding="utf-8")) == {
        "val_loss": 3.1,
        "train_tokens": 1000,
    }
    speed = json.loads(Path("data/runs/speed/pretrain.json").read_text(encoding="utf-8"))
    assert (speed["tokens_per_second"], speed["mfu"]) == (500.0, 0.25)
