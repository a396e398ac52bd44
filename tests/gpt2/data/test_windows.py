"""Windows of tokens: every token once, the same order for any batch size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2.core.errors import UserError
from gpt2.data.batch import IGNORE_INDEX
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.windows import TrainingWindows, evaluation_batches, window_starts
from tests.gpt2.data.shard_texts import row


@pytest.mark.parametrize("context_length", [1, 2, 7, 64])
@pytest.mark.parametrize("extra", [1, 2, 50, 128, 1000])
def test_no_token_is_a_target_twice_in_an_epoch(context_length: int, extra: int) -> None:
    n_tokens = context_length + extra
    for epoch in range(20):
        starts = window_starts(n_tokens, context_length, seed=5, epoch=epoch)
        targets = (starts[:, None] + 1 + np.arange(context_length)).ravel()
        assert len(np.unique(targets)) == len(targets) >= n_tokens - 2 * context_length
        assert targets.min() >= 1
        assert targets.max() < n_tokens


def test_window_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return window_starts(10_000, 64, seed, epoch).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in range(4)}) == 8
    assert len({order(1, epoch)[0] % 64 for epoch in range(20)}) > 10  # the offset moves
    # Pinned: another order would change every training run.
    assert order(123, 0)[:4] == [9856, 6848, 5824, 5056]


def test_too_short_a_split_is_refused() -> None:
    assert window_starts(65, 64, seed=0, epoch=0).tolist() == [0]
    with pytest.raises(UserError, match="64 tokens, too few for one window of context_length 64"):
        window_starts(64, 64, seed=0, epoch=0)


def test_training_batches(tokenizer: Tokenizer, written: Path) -> None:
    tokens = Tokens.open(written, "train")
    windows = TrainingWindows(tokens, context_length=32, batch_size=8, seed=1)
    epoch = window_starts(len(tokens), 32, seed=1, epoch=0)
    whole = torch.tensor(row(tokenizer, "train"))
    assert windows.steps_per_epoch == len(epoch) / 8
    inputs, targets, _ = windows(2)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (8, 32)
    for place, start in enumerate(epoch[16:24].tolist()):
        assert inputs[place].equal(whole[start : start + 32])
        assert targets[place].equal(whole[start + 1 : start + 33])


def test_training_batches_continue_into_the_next_epoch(written: Path) -> None:
    tokens = Tokens.open(written, "train")
    windows = TrainingWindows(tokens, context_length=1024, batch_size=8, seed=1)
    assert windows.steps_per_epoch % 1 != 0
    starts = np.concatenate([window_starts(len(tokens), 1024, 1, epoch) for epoch in range(3)])
    steps = list(range(len(starts) // 8))
    for step in [*reversed(steps), *steps]:  # any order gives the same batches
        for place, start in enumerate(starts[step * 8 : step * 8 + 8].tolist()):
            assert windows(step).inputs[place].tolist() == tokens.window(start, 1024).tolist()


def test_batch_size_does_not_change_the_order_of_windows(written: Path) -> None:
    tokens = Tokens.open(written, "train")
    eight = TrainingWindows(tokens, context_length=64, batch_size=8, seed=1)
    two = TrainingWindows(tokens, context_length=64, batch_size=2, seed=1)
    for step in (0, 7, 99):
        parts = [two(step * 4 + part).targets for part in range(4)]
        assert eight(step).targets.equal(torch.cat(parts))


@pytest.mark.parametrize(
    ("context_length", "batch_size"), [(32, 4), (100, 3), (1, 1000), (8192, 2)]
)
def test_evaluation_sees_every_token_once_and_every_byte(
    tokenizer: Tokenizer, written: Path, context_length: int, batch_size: int
) -> None:
    tokens = Tokens.open(written, "validation")
    whole = row(tokenizer, "validation")
    batches = list(evaluation_batches(tokens, context_length, batch_size))
    assert {batch.inputs.shape for batch in batches} == {(batch_size, context_length)}
    inputs = torch.cat([batch.inputs.flatten() for batch in batches])
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    assert targets.dtype == torch.int64
    assert inputs[: len(whole) - 1].tolist() == whole[:-1]
    assert targets[: len(whole) - 1].tolist() == whole[1:]
    assert (targets[len(whole) - 1 :] == IGNORE_INDEX).all()
    assert tokenizer.token_bytes[targets[targets != IGNORE_INDEX]].sum() == tokens.text_bytes
