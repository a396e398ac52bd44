"""Windows of tokens for training and evaluation (tutorial chapter 2, data loading)."""

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2.core.errors import UserError
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.data.shards import Tokens


def window_count(n_tokens: int, context_length: int) -> int:
    """Number of training windows in an epoch. It is the same for every epoch and offset.

    Raises:
        UserError: the split is shorter than one window.
    """
    if n_tokens <= context_length:
        raise UserError(
            f"the split has {n_tokens:,} tokens, too few for one window of context_length "
            f"{context_length:,} and its next token. Use more text or a shorter context"
        )
    return max(1, (n_tokens - context_length) // context_length)


def window_starts(n_tokens: int, context_length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """First positions of the windows of an epoch, in training order.

    A pure function of its arguments. A window is ``context_length`` inputs and one more token, the
    last target, which is the first input of the next window. So no token is a target twice in an
    epoch. Each epoch has a random offset, so that it divides the text at other positions.
    """
    count = window_count(n_tokens, context_length)
    random = np.random.default_rng([seed, epoch])
    offset = random.integers(min(context_length, n_tokens - count * context_length))
    return offset + context_length * random.permutation(count)


class TrainingWindows:
    """Training batches without end: call it with a step, from 0, in any order.

    The rows of consecutive steps go through the windows of all epochs without a gap. What a step
    trains on depends only on the arguments; workers that share a step take different rows of its
    batch.
    """

    def __init__(self, tokens: Tokens, context_length: int, batch_size: int, seed: int) -> None:
        self._tokens, self._context_length, self._batch_size = tokens, context_length, batch_size
        self._per_epoch = window_count(len(tokens), context_length)
        # Two orders are cached: a batch may end one epoch and begin the next.
        self._starts = lru_cache(maxsize=2)(
            partial(window_starts, len(tokens), context_length, seed)
        )

    @property
    def steps_per_epoch(self) -> float:
        """Batches that use every window once."""
        return self._per_epoch / self._batch_size

    def __call__(self, step: int) -> Batch:
        """The batch of a step, ``(B, T)``."""
        rows = np.empty((self._batch_size, self._context_length + 1), np.int64)
        for row, index in enumerate(range(step * self._batch_size, (step + 1) * self._batch_size)):
            epoch, position = divmod(index, self._per_epoch)
            start = int(self._starts(epoch)[position])
            rows[row] = self._tokens.window(start, self._context_length + 1)
        return _batch(rows[:, :-1], rows[:, 1:])


def evaluation_batches(tokens: Tokens, context_length: int, batch_size: int) -> Iterator[Batch]:
    """The split in order, in batches ``(B, T)``. Every token but the first is a target once.

    The last batch is padded with input 0 and target `IGNORE_INDEX`.
    """
    shape = (batch_size, context_length)
    size = batch_size * context_length
    for start in range(0, len(tokens) - 1, size):
        window = tokens.window(start, min(size + 1, len(tokens) - start))
        inputs, targets = np.zeros(size, np.int64), np.full(size, IGNORE_INDEX, np.int64)
        inputs[: len(window) - 1], targets[: len(window) - 1] = window[:-1], window[1:]
        yield _batch(inputs.reshape(shape), targets.reshape(shape))


def _batch(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> Batch:
    return Batch(torch.from_numpy(inputs).contiguous(), torch.from_numpy(targets).contiguous())
