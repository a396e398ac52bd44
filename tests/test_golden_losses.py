"""Twenty steps of the starter's training give the losses that they gave before.

So a change of numerics is seen, also one that no other test minds. Whoever means one writes the
values anew: ``python -m tests.golden_losses --keep``. Golden values carry the kind of processor:
kinds differ in the order of sums, and processors of one kind by their maker's libraries.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from scripts.deps import ROOT
from tests.golden_losses import GOLDEN, OPTIMIZERS, STEPS
from tests.processors import AVX2

CAPABILITIES = torch.cpu.get_capabilities()
HAS = {
    "avx2-float32": CAPABILITIES.get("avx2"),
    "avx512-float32": CAPABILITIES.get("avx512_f"),
    "avx512-bfloat16": CAPABILITIES.get("avx512_bf16"),
}
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Relative, for each loss."""


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
@pytest.mark.parametrize("kind", HAS)
def test_losses_are_the_golden_ones(kind: str, optimizer: str) -> None:
    if not HAS[kind]:
        pytest.skip("this processor is of a smaller kind")
    dtype = kind.partition("-")[2]
    environment = {**os.environ, **(AVX2 if kind.startswith("avx2") else {})}
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden_losses", optimizer, "--dtype", dtype],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)[optimizer]
    assert found.pop("kind") == kind
    golden = json.loads((GOLDEN / f"{kind}.json").read_text())[optimizer]
    for stage, losses in golden.items():
        assert found[stage] == pytest.approx(losses, rel=TOLERANCE[dtype]), stage
