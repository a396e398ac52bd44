"""Runs that really are slow, for each cause that is reported."""

import logging
import os
import subprocess
import sys
import time

import torch
from torch import Tensor

from benchmarks.measure import IMITATED
from gpt2.core.device import Runtime
from gpt2.core.processor import cores
from gpt2.model.gpt2 import GPT2
from gpt2.tracking.tracker import NullTracker
from gpt2.training import pace
from gpt2.training.checkpoint import RunDirectory
from gpt2.training.pace import SLOW, likely_cause
from gpt2.training.trainer import fit
from tests.gpt2.training.test_trainer import CONFIG, batch, params

CPU = torch.device("cpu")
FLOAT32 = Runtime(CPU, torch.float32)


class Sleepy(GPT2):
    """A model whose layers wait, as a throttled processor does."""

    pause = 0.2

    def features(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        time.sleep(self.pause)
        return super().features(ids, lengths=lengths)


def trained(model: GPT2, steps: int, directory, **settings: object) -> None:
    run = RunDirectory(directory, "test", {})
    model.train()
    fit(
        *(model, steps, lambda step: [batch(step)], lambda: [batch(10_000)]),
        *(params(eval_interval=10**6, **settings), run, NullTracker()),
    )


def test_a_run_that_is_far_too_slow_says_so_once(tmp_path, caplog) -> None:
    trained(Sleepy(CONFIG), 16, tmp_path)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert (
        "tokens/s: " in warnings[0]
        and "times slower than estimated for this machine. " in warnings[0]
    )
    assert "throttled" in warnings[0] or "other processes keep" in warnings[0]


def test_a_few_very_slow_steps_are_enough(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.5)
    trained(Sleepy(CONFIG), 5, tmp_path)
    assert "times slower" in caplog.text


def test_the_first_steps_are_not_judged_and_neither_are_those_long_after(tmp_path, caplog) -> None:
    model = Sleepy(CONFIG)
    forward = model.features

    def features(*arguments, **options):
        model.pause = 0.3 if len(seen) in (0, 1, 2, 3, 15, 16) else 0.0  # 0 and 17 are evaluations
        seen.append(len(seen))
        return forward(*arguments, **options)

    seen: list[int] = []
    model.features = features
    trained(model, 16, tmp_path)
    assert len(seen) == 18
    assert "throttled" not in caplog.text


def test_the_likely_cause() -> None:
    assert "throttled" in likely_cause(FLOAT32, 0.0)
    assert "the device is likely throttled" in likely_cause(
        Runtime(torch.device("meta"), torch.bfloat16), 0.1
    )
    assert f"other processes keep {cores():.1f} of {cores()} cores" in likely_cause(
        FLOAT32, float(cores())
    )


EMULATED = """
import logging, sys
logging.basicConfig(format="%(message)s")
import torch
from gpt2.core.device import Runtime
from gpt2.training.pace import likely_cause
print(likely_cause(Runtime(torch.device("cpu"), torch.float16), 0.0))
"""


def test_an_emulated_format_is_the_likely_cause_before_all_others() -> None:
    process = subprocess.run(
        [sys.executable, "-c", EMULATED],
        env={**os.environ, **IMITATED["avx2"], "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == (
        "Likely cause: dtype float16 is emulated on this processor. Set dtype: auto\n"
    )
    assert SLOW > 1
