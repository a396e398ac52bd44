"""What computes passes its own tests on a smaller processor, too, imitated on this one."""

import os
import subprocess
import sys

import pytest
import torch

from scripts.deps import ROOT
from tests.processors import AVX2

COMPUTING = ("attention", "device", "generation", "loss", "number_formats", "optim")
"""Test modules that go through a training step and a generation, piece by piece and whole."""


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_f"), reason="no larger than AVX2")
def test_what_computes_is_right_with_avx2_alone() -> None:
    modules = [f"tests/gpt2/test_{name}.py" for name in COMPUTING]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *modules],
        cwd=ROOT,
        env={**os.environ, **AVX2},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
