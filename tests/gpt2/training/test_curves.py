from gpt2.tracking.tracker import NullTracker
from gpt2.training.curves import curves_figure, write_curves
from gpt2.training.history import History


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
    assert panels[0].get_title() == "loss (nats per token)"


def test_what_differs_from_run_to_run_stays_out_of_the_plots(tmp_path):
    point = {"loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 9.0, "mfu": 0.5}
    history = History(
        curve=[{"step": 0, **point}, {"step": 1, **point, "loss_z": 0.5, "grad_norm_z": -1.0}],
        evaluations=[{"step": 0, "val_loss": 3.1}],
        tokens=1000,
        flops=5e9,
        seconds=2.0,
        product_rate=1e10,
    )
    write_curves(history, tmp_path / "pretrain.csv", NullTracker())
    assert (tmp_path / "pretrain.csv").read_text(encoding="utf-8") == (
        "step,loss,lr,grad_norm,val_loss,loss_z,grad_norm_z\n"
        "0,3.0,0.1,1.0,3.1,,\n"
        "1,3.0,0.1,1.0,,0.5,-1.0\n"
    )
