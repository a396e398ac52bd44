"""Keys and values of the tokens seen so far, kept while a text is written (tutorial part 5)."""

import torch
from torch import Tensor

from gpt2.model.config import GPT2Config


class KVCache:
    """Keys and values of the tokens seen so far, so that each new token costs one step, not all.

    Each row of the batch fills its own places: rows of other lengths need no padding on the left.
    """

    def __init__(self, config: GPT2Config, rows: int, places: int, like: Tensor) -> None:
        """``places`` is S, the longest sequence to come; ``like`` gives dtype and device."""
        D = config.n_embd // config.n_head
        shape = (rows, config.n_head, places, D)  # B H S D, as the attention reads them
        self.keys = [like.new_zeros(shape) for _ in range(config.n_layer)]
        self.values = [like.new_zeros(shape) for _ in range(config.n_layer)]

    def move(self, source: int, target: int) -> None:
        """Put what row ``source`` holds in place of what row ``target`` holds."""
        if source != target:
            for stored in (*self.keys, *self.values):
                stored[target] = stored[source]


class CacheView:
    """A cache as one step sees it: where its tokens go, and which places each of them looks at."""

    def __init__(
        self, cache: KVCache, positions: Tensor, first_row: int = 0, used: int | None = None
    ) -> None:
        """``positions`` ``(B, T)``: where in its sequence each token of the step stands; the step's
        rows are B rows of the cache from ``first_row`` on. ``used``: how many places are looked
        through, more than any position; None: up to the last one."""
        B, device = len(positions), cache.keys[0].device
        used = used or int(positions.max()) + 1
        self.positions = positions.to(device)
        self.rows = torch.arange(B, device=device)[:, None]  # with positions: an index, B T
        here = slice(first_row, first_row + B)
        self.keys = [keys[here, :, :used] for keys in cache.keys]  # each B H S D
        self.values = [values[here, :, :used] for values in cache.values]
        seen = torch.arange(used, device=device) <= self.positions[:, :, None]  # B T S
        self.mask = seen[:, None]  # B 1 T S: the same for every head

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(B, H, T, D)`` at the step's positions; give all up to the last used."""
        for stored, new in ((self.keys[layer], keys), (self.values[layer], values)):
            stored.transpose(1, 2)[self.rows, self.positions] = new.transpose(1, 2).to(stored.dtype)
        return self.keys[layer], self.values[layer]
