import torch

from gpt2.batch import Batch
from gpt2.trainer import History
from stages.training import curves_figure, micro_batches


def test_micro_batches_are_the_rows_in_order():
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(10, 20).view(5, 2))
    assert micro_batches(batch, None)[0].inputs.tolist() == batch.inputs.tolist()
    parts = micro_batches(batch, 2)
    assert [len(part.inputs) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_the_figure_shows_every_curve():
    point = {"lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 100.0}
    history = History(
        curve=[{"step": 0, "loss": 3.0, **point}, {"step": 1, "loss": 2.0, **point}],
        evaluations=[{"step": 0, "val_loss": 3.1}, {"step": 2, "val_loss": 2.5}],
    )
    panels = curves_figure(history).axes
    lines = [[line.get_ydata().tolist() for line in axes.lines] for axes in panels]
    expected = [[[3.0, 2.0], [3.1, 2.5]], [[0.1, 0.1]], [[1.0, 1.0]], [[100.0, 100.0]]]
    assert lines == expected
    assert panels[0].get_title() == "loss (nats a token)"
