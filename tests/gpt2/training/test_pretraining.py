import math

import pytest
import torch

from gpt2.data.batch import Batch
from gpt2.data.shards import Tokens
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.history import History
from gpt2.training.pretraining import metrics, micro_batches


def test_micro_batches_are_the_rows_in_order():
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(10, 20).view(5, 2))
    assert micro_batches(batch, None)[0].inputs.tolist() == batch.inputs.tolist()
    parts = micro_batches(batch, 2)
    assert [len(part.inputs) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_metrics_are_those_of_the_last_evaluation():
    model = GPT2(GPT2Config(vocab_size=5, context_length=3, n_layer=1, n_head=1, n_embd=2))
    history = History(
        evaluations=[{"step": 0, "val_loss": 9.0}, {"step": 2, "val_loss": 2 * math.log(2)}],
        tokens=1000,
    )
    validation = Tokens([torch.arange(51).numpy()], 1, text_bytes=100, vocab_size=51)
    found = metrics(model, history, validation, epochs=1.5)
    assert found == {
        "val_loss": 2 * math.log(2),
        "perplexity": pytest.approx(4),
        "bits_per_byte": pytest.approx(1),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "epochs": 1.5,
        "train_tokens": 1000,
    }
