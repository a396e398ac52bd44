"""Which kind of processor computes, as results are filed."""

import json
import os
import platform
import subprocess
import sys

import pytest

from benchmarks.measure import IMITATED, RESULTS, imitated_by, kind
from scripts.deps import ROOT

ASK = """
import json
from benchmarks.measure import imitated_by, kind
print(json.dumps([kind(), imitated_by()]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="imitates x86 on x86")
def test_a_larger_processor_imitates_avx2() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, **IMITATED["avx2"], "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, check=True, capture_output=True, text=True
    )
    found, variables = json.loads(done.stdout)
    assert found == "avx2"
    assert variables == (IMITATED["avx2"] if kind().startswith(("avx512", "amx")) else {})


def test_without_the_variables_nothing_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in IMITATED["avx2"]:
        monkeypatch.delenv(name, raising=False)
    assert imitated_by() == {}


def test_results_lie_in_the_folder_of_their_kind() -> None:
    files = sorted(RESULTS.rglob("*.json"))
    assert files
    for file in files:
        machine = json.loads(file.read_text())["machine"]
        assert file.parent == RESULTS / machine["kind"]
        assert isinstance(machine["imitated_by"], dict)
