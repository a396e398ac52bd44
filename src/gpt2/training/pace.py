"""Compares the speed of training with an estimate for this machine, and warns if it is too slow."""

import logging
import statistics
from collections.abc import Sequence
from functools import cached_property

import torch

from gpt2.core.device import Runtime, dtype_name, is_emulated
from gpt2.core.processor import BUSY, busy_elsewhere, core_seconds, cores
from gpt2.data.batch import Batch
from gpt2.model.config import GPT2Config
from gpt2.training.flops import (
    Speed,
    measured_speed,
    muon_flops,
    recomputed_flops,
    steps_seconds,
    token_flops,
)

log = logging.getLogger(__name__)

WARM_UP = 2
"""First steps, which are not compared: they load code, create kernels and allocate memory."""
STEPS, SECONDS, FEWEST = 10, 10.0, 3
"""Steps that are compared; after this many seconds, fewer are enough."""
SLOW = 3.0
"""Ratio to the estimate that causes a warning. Below it the estimate itself may be wrong."""


class Pace:
    """Counts the FLOPs of each step, and logs one warning if a run is far too slow."""

    def __init__(
        self, config: GPT2Config, runtime: Runtime, *, muon: bool, recomputing: bool
    ) -> None:
        self._config, self._runtime = config, runtime
        self._muon = muon_flops(config, runtime.dtype) if muon else 0.0
        self._recomputing = recomputing
        self._warming_up, self._judged = WARM_UP, False
        self._took: list[float] = []
        self._ratios: list[float] = []
        self._tokens = 0
        self._began = core_seconds()

    @cached_property
    def speed(self) -> Speed:
        """Of this machine; measured after the first step, so that a stage does not start later."""
        return measured_speed(self._runtime, self._config.n_embd)

    def step(self, batches: Sequence[Batch], n_targets: int, seconds: float) -> float:
        """Record an optimizer step over micro-batches that took ``seconds``.

        ``n_targets``: targets that are not `IGNORE_INDEX`.

        Returns:
            Model FLOPs of the step.
        """
        sizes = [
            (inputs.numel(), len(inputs) if lengths is None else len(lengths))
            for inputs, _, lengths in batches
        ]
        tokens = sum(n for n, _ in sizes)
        # The length of a token's sequence, averaged over the tokens.
        length = sum(n * n / sequences for n, sequences in sizes) / tokens
        done = tokens * token_flops(self._config, length, n_targets / tokens)
        again = tokens * recomputed_flops(self._config, length) if self._recomputing else 0
        if self._warming_up:
            self._warming_up -= 1
            self._began = core_seconds()
        elif not self._judged:
            expected = steps_seconds(
                *(self._config, self.speed),
                flops=done + again,
                tokens=tokens,
                counted=n_targets,
                steps=1,
                passes=len(batches),
                muon=self._muon,
            )
            self._tokens += tokens
            self._watch(seconds, expected)
        return done

    def _watch(self, seconds: float, expected: float) -> None:
        self._took.append(seconds)
        self._ratios.append(seconds / expected)
        enough = FEWEST if sum(self._took) > SECONDS else STEPS
        if len(self._ratios) < enough:
            return
        self._judged = True
        # The median, because a new shape or the compiler may delay a step or two.
        slower = statistics.median(self._ratios)
        if slower >= SLOW:
            rate = self._tokens / sum(self._took)
            log.warning(
                "%s tokens/s: %.0f times slower than estimated for this machine. %s",
                f"{rate:,.0f}",
                slower,
                likely_cause(self._runtime, busy_elsewhere(self._began)),
            )


def likely_cause(runtime: Runtime, busy: float) -> str:
    """Why training is slow, while other processes keep ``busy`` cores busy."""
    if is_emulated(runtime):
        name = dtype_name(runtime.dtype)
        return f"Likely cause: dtype {name} is emulated on this processor. Set dtype: auto"
    if busy >= BUSY and cores() - busy < torch.get_num_threads():
        return f"Likely cause: other processes keep {busy:.1f} of {cores()} cores busy. End them"
    what = "processor" if runtime.device.type == "cpu" else "device"
    return (
        f"Nothing else is busy here: the {what} is likely throttled (heat, power saving, or a "
        "limit on what this container may use)"
    )
