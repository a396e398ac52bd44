"""How long waiting threads spin, as `import gpt2` sets it before torch is loaded."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from benchmarks.under_load import busy
from gpt2 import SPINS, SPINS_BESIDE_OTHERS
from scripts.deps import ROOT

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_count(module: str, variables: Mapping[str, str]) -> str:
    """GOMP_SPINCOUNT after an import of ``module``, which must not load torch."""
    code = f"import os, sys, {module}; assert 'torch' not in sys.modules; "
    code += "print(os.environ.get('GOMP_SPINCOUNT'))"
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = {**kept, "PYTHONPATH": str(ROOT / "src"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["gpt2", "stages"])
def test_threads_sleep_early_before_torch_is_loaded(module: str) -> None:
    assert spin_count(module, {}) in (str(SPINS), str(SPINS_BESIDE_OTHERS))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_sleep_earlier_beside_a_busy_process() -> None:
    with busy(1):
        assert spin_count("gpt2", {}) == str(SPINS_BESIDE_OTHERS)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_a_value_of_the_user_stays(variables: Mapping[str, str], expected: str) -> None:
    assert spin_count("gpt2", variables) == expected
