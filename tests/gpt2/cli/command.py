"""Runs the command ``gpt2``, in this process and as a program of its own."""

import os
import signal
import subprocess
import sys

from click.testing import CliRunner, Result

from gpt2.cli.main import main
from gpt2.data.instructions import prompt
from scripts.deps import ROOT

ASKED = prompt("Smile.", "")
ANSWER = "Voilà 🙂: naïve 中文, 👩‍👩‍👧!\nΩ"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
FLOAT32 = ("--dtype", "float32", "--device", "cpu")
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def start(*arguments: object, **streams: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "gpt2.cli.main", *map(str, arguments), *FLOAT32]
    # Whoever runs the tests in the background may have had SIGINT ignored.
    attend = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=attend, **streams)
