import torch

from gpt2.batch import Batch
from gpt2.trainer import History
from stages.training import loss_figure, micro_batches


def test_micro_batches_are_the_rows_in_order():
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(10, 20).view(5, 2))
    assert micro_batches(batch, None)[0].inputs.tolist() == batch.inputs.tolist()
    parts = micro_batches(batch, 2)
    assert [len(part.inputs) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_the_figure_shows_both_curves():
    history = History(
        curve=[{"step": 0, "loss": 3.0}, {"step": 1, "loss": 2.0}],
        evaluations=[{"step": 0, "val_loss": 3.1}, {"step": 2, "val_loss": 2.5}],
    )
    [axes] = loss_figure(history).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0], [3.1, 2.5]]
    assert axes.get_xlabel() == "optimizer step"
