"""What computes passes its own tests on a smaller processor, too, imitated on this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.measure import IMITATED
from scripts.deps import ROOT
from tests.pipeline import STAGES, Pipeline, started

COMPUTING = ("attention", "device", "generation", "loss", "number_formats", "optim")
"""Test modules that go through a training step and a generation, piece by piece and whole."""

larger = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_f"), reason="this processor is no larger than AVX2"
)


@larger
def test_what_computes_is_right_with_avx2_alone() -> None:
    modules = [f"tests/gpt2/test_{name}.py" for name in COMPUTING]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *modules],
        cwd=ROOT,
        env={**os.environ, **IMITATED["avx2"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@larger
@pytest.mark.slow
def test_the_smoke_profile_runs_with_avx2_alone(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    variables = [f"{name}={value}" for name, value in IMITATED["avx2"].items()]
    assert started(pipeline.call("env", *variables, "dvc", "repro")) == STAGES
    assert pipeline.json("metrics/pretrain.json")["val_loss"] < 7
