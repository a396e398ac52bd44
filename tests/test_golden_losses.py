"""The first twenty steps of the starter's training give the recorded losses.

This detects every change of numerics, even one that no other test notices. After an intended one,
record the values again: ``python -m tests.golden_losses --keep``. There are golden values for each
kind of processor: kinds differ in the order of sums, and processors of one kind in their vendor's
libraries. The default kind of this machine is always tested, smaller kinds with ``-m slow``.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.measure import IMITATED
from gpt2.core.device import DeviceParams, choose_runtime
from scripts.deps import ROOT
from tests.golden_losses import GOLDEN, OPTIMIZERS, STEPS, kind

CAPABILITIES = torch.cpu.get_capabilities()
HAS = {
    "avx2-float32": CAPABILITIES.get("avx2"),
    "avx512-float32": CAPABILITIES.get("avx512_f"),
    "avx512-bfloat16": CAPABILITIES.get("avx512_bf16"),
}
HERE = kind(choose_runtime(DeviceParams(device="cpu")))
TOLERANCE = {"float32": 5e-5, "bfloat16": 5e-3}
"""Relative, for each loss. On one processor AVX2 and AVX-512 differed by at most 7e-7 in float32,
bfloat16 from float32 by at most 3e-3."""


def test_all_golden_values_are_there() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(HAS)
    for path in GOLDEN.iterdir():
        golden = json.loads(path.read_text())
        assert set(golden) == set(OPTIMIZERS)
        for of_one in golden.values():
            assert {stage: len(losses) for stage, losses in of_one.items()} == {
                "pretrain": STEPS,
                "finetune": STEPS,
            }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "name", [name if name == HERE else pytest.param(name, marks=pytest.mark.slow) for name in HAS]
)
def test_losses_are_the_golden_ones(name: str, optimizer: str) -> None:
    if not HAS[name]:
        pytest.skip("this processor is of a smaller kind")
    dtype = name.partition("-")[2]
    environment = {**os.environ, **(IMITATED["avx2"] if name.startswith("avx2") else {})}
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden_losses", optimizer, "--dtype", dtype],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)[optimizer]
    assert found.pop("kind") == name
    golden = json.loads((GOLDEN / f"{name}.json").read_text())[optimizer]
    for stage, losses in golden.items():
        assert found[stage] == pytest.approx(losses, rel=TOLERANCE[dtype]), stage
