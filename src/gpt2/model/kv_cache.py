"""The key-value cache of generation: each new token is computed once (tutorial part 5).

Shapes: B sequences, T new tokens of each, H heads of D channels, S cache slots.
"""

import torch
from torch import Tensor

from gpt2.model.config import GPT2Config


class KVCache:
    """Keys and values of all layers for the tokens seen so far.

    A row is a sequence, and position p of a sequence has slot p of its row. So sequences of
    different lengths need no padding on the left.
    """

    def __init__(self, config: GPT2Config, rows: int, slots: int, like: Tensor) -> None:
        """``slots`` is S, the length of the longest sequence; ``like`` gives dtype and device."""
        D = config.n_embd // config.n_head
        shape = (rows, config.n_head, slots, D)  # B H S D, the layout that attention reads
        self.keys = [like.new_zeros(shape) for _ in range(config.n_layer)]
        self.values = [like.new_zeros(shape) for _ in range(config.n_layer)]

    def move(self, source: int, target: int) -> None:
        """Copy row ``source`` over row ``target``."""
        if source != target:
            for stored in (*self.keys, *self.values):
                stored[target] = stored[source]


class CacheView:
    """The part of a cache that one forward pass uses, and the positions of its new tokens."""

    def __init__(
        self, cache: KVCache, positions: Tensor, first_row: int = 0, used: int | None = None
    ) -> None:
        """Select B rows of the cache, from ``first_row`` on.

        Args:
            cache: the whole cache.
            positions: ``(B, T)``, the position of each new token in its sequence.
            first_row: the first of the rows.
            used: slots that attention reads, more than any position; None: up to the last position.
        """
        B, device = len(positions), cache.keys[0].device
        used = used or int(positions.max()) + 1
        self.positions = positions.to(device)
        self.rows = torch.arange(B, device=device)[:, None]  # with positions: an index, B T
        here = slice(first_row, first_row + B)
        self.keys = [keys[here, :, :used] for keys in cache.keys]  # each B H S D
        self.values = [values[here, :, :used] for values in cache.values]
        visible = torch.arange(used, device=device) <= self.positions[:, :, None]  # B T S
        self.mask = visible[:, None]  # B 1 T S: the same for every head

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the ``(B, H, T, D)`` keys and values of the new tokens in their slots.

        Returns:
            Keys and values of all slots in use, each ``(B, H, S, D)``.
        """
        for stored, new in ((self.keys[layer], keys), (self.values[layer], values)):
            stored.transpose(1, 2)[self.rows, self.positions] = new.transpose(1, 2).to(stored.dtype)
        return self.keys[layer], self.values[layer]
