"""Tests of numerical code also pass on an older processor, which this one imitates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.measure import IMITATED
from scripts.deps import ROOT
from tests.pipeline import STAGES, Pipeline, started

COMPUTING = (
    "gpt2/core/test_device.py",
    "gpt2/inference/generation/test_decoder.py",
    "gpt2/inference/generation/test_loop.py",
    "gpt2/inference/generation/test_packed_linear.py",
    "gpt2/model/test_attention.py",
    "gpt2/model/test_loss.py",
    "gpt2/training/test_optim.py",
    "test_dtypes.py",
)
"""Test modules that cover training steps and generation, in parts and as a whole."""

larger = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_f"), reason="this processor has no more than AVX2"
)


@larger
def test_numerical_code_passes_its_tests_with_avx2_only() -> None:
    modules = [f"tests/{name}" for name in COMPUTING]
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
def test_the_smoke_profile_runs_with_avx2_only(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    variables = [f"{name}={value}" for name, value in IMITATED["avx2"].items()]
    assert started(pipeline.call("env", *variables, "dvc", "repro")) == STAGES
    assert pipeline.json("metrics/pretrain.json")["val_loss"] < 7
