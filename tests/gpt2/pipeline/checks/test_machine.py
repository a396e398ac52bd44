"""Checks of the machine, on this one and with settings that it does not have."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gpt2.core.device import DeviceParams
from gpt2.core.processor import instruction_sets
from gpt2.pipeline.checks import machine
from gpt2.pipeline.checks.check import Check


def test_python_and_the_pinned_packages(tmp_path: Path) -> None:
    assert machine.python_version().works
    requirements = tmp_path / "requirements.txt"
    assert machine.pinned_packages(requirements).verdict == "absent"
    requirements.write_text(f"click=={version('click')}\n# remark\n-r other.txt\n")
    assert machine.pinned_packages(requirements) == Check(
        "packages", True, "1 as pinned", f"python -m pip install -r {requirements}"
    )
    requirements.write_text(f"click=={version('click')}\nnumpy==0.1\nno-such-package==1.0\n")
    check = machine.pinned_packages(requirements)
    assert check.verdict == "problem"
    assert check.finding.startswith("2 of 3 differ: numpy ")
    assert check.finding.endswith("; no-such-package missing, pinned 1.0")


def test_the_machine() -> None:
    finding = machine.processor().finding
    assert re.match(r"\d+ core\(s\); .*; native float32(, \w+)*; \d+ thread\(s\); load ", finding)
    assert all(name in finding for name in instruction_sets())
    assert machine.gpu([DeviceParams(device="cpu")]).verdict in ("works", "absent")
    check = machine.gpu([DeviceParams(), DeviceParams(device="mps")])
    assert check.verdict == "works" or "mps is not available" in check.remedy


def test_other_processes_and_a_capability_limit_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        finding = machine.processor(seconds=1.5).finding
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert "; limited to " in finding
    assert re.search(r"; other processes use \d+\.\d core\(s\)", finding)


def test_a_compiler_is_needed_only_for_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compiler(needed=False).verdict == "absent"
    assert machine.compiler(needed=True).verdict == "problem"
    (tmp_path / "g++").touch(mode=0o755)
    assert machine.compiler(needed=True).verdict == "works"


def test_disk_and_memory(tmp_path: Path) -> None:
    for needed, works in ((1.0, True), (1e18, False)):
        assert machine.disk(tmp_path, needed).works == works
        assert machine.memory(needed, [DeviceParams()]).works == works
