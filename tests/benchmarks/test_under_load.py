"""The processes that keep the processor busy."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.measure import Row, Timing
from benchmarks.under_load import busy, with_shares
from scripts.deps import ROOT


def alive(pid: int) -> bool:
    """Whether the process runs; a container may have nobody who buries one without a parent."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


def test_they_run_and_are_ended() -> None:
    with busy(2) as processes:
        assert len(processes) == 2
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)


def test_they_are_ended_after_an_error() -> None:
    with pytest.raises(ValueError), busy(1) as processes:
        raise ValueError
    assert processes[0].poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_they_outlive_nobody() -> None:
    script = (
        "from benchmarks.under_load import busy\nwith busy(1) as (one,): print(one.pid); input()"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin and parent.stdout
    with parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    end = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_shares_are_of_the_same_side_when_it_was_quiet() -> None:
    def row(ours: float, peer: float) -> Row:
        return Row("a step", 1, "steps", {"ours": Timing([ours]), "nanoGPT": Timing([peer])})

    assert with_shares(row(2, 2), row(1, 0.5), 0.48).figures == {
        "share of the quiet rate, ours, goal at least 0.48": 0.5,
        "share of the quiet rate, nanoGPT": 0.25,
    }
    assert "share of the quiet rate, ours" in with_shares(row(2, 2), row(1, 1), None).figures
