import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2
from gpt2.core.errors import UserError
from gpt2.core.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from gpt2.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_names_its_holder_and_a_killed_holder_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "pretrain.lock"
    with holder(path) as process:
        refusal = pytest.raises(UserError, match=f"in use by process {process.pid}")
        with refusal, locked(path, wait=False):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(path, wait=False):
        assert path.read_text() == str(os.getpid())


def test_waits_for_the_holder_after_reporting_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        holder(path) as process,
        locked(path, on_wait=lambda pid: os.kill(int(pid), signal.SIGKILL)),
    ):
        assert process.wait() == -signal.SIGKILL
        assert path.read_text() == str(os.getpid())
