import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.deps import ROOT

FULL = Path("/dev/full")
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
import logging, sys
from gpt2.core.streams import standard_streams
with standard_streams(needed=sys.argv[1] == "needed"):
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    for number in range(20_000):
        print("\\u6458\\u8981", number)
        logging.warning("\\xfc")
    print("done", file=sys.stderr)
"""


def run(command: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command; its status is that of the program before a pipe."""
    places = f"{ROOT}:{ROOT / 'src'}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("python", sys.executable)],
        cwd=ROOT,
        env={**inherited, "PROGRAM": PROGRAM, "PYTHONPATH": places, **settings},
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "摘要 0\nü\n".encode()),
        ({"PYTHONIOENCODING": "cp1252"}, b"\\u6458\\u8981 0\n\xfc\n"),
        ({"PYTHONIOENCODING": "ascii:strict"}, b"\\u6458\\u8981 0\n\\xfc\n"),
        (BARE, b"\\u6458\\u8981 0\n\\xfc\n"),
        ({**BARE, "PYTHONUNBUFFERED": "1"}, b"\\u6458\\u8981 0\n\\xfc\n"),
        ({"LC_ALL": "C"}, "摘要 0\nü\n".encode()),
    ],
)
def test_characters_outside_the_encoding_are_escaped(settings: dict[str, str], line: bytes) -> None:
    done = run('python -c "$PROGRAM" needed', **settings)
    assert (done.returncode, done.stderr) == (0, b"done\n")
    assert done.stdout.startswith(line)
    assert done.stdout.count(b"\n") == 40_000


@pytest.mark.parametrize(
    ("where", "needed", "status", "message"),
    [
        ("| head -1 >&2", "needed", 141, "摘要 0\n"),
        ("| head -1 >&2", "commentary", 0, "摘要 0\ndone\n"),
        ("> /dev/full", "needed", 1, "error: standard output: No space left on device\n"),
        (
            "> /dev/full",
            "commentary",
            0,
            "note: standard output: No space left on device; continuing without it\ndone\n",
        ),
        (">&-", "needed", 0, "done\n"),
        ("2>&1 >&- >&2 | head -0", "commentary", 0, ""),
        ("> /dev/full 2>&1", "commentary", 0, ""),
        ("> /dev/full 2>&-", "needed", 1, ""),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written(
    where: str, needed: str, status: int, message: str, settings: dict[str, str]
) -> None:
    done = run(f'python -c "$PROGRAM" {needed} {where}', **settings)
    assert (done.stderr.decode(), done.returncode) == (message, status)


COMMANDS = (
    "gpt2.cli.main --help",
    "gpt2.cli.main validate --no-estimates",
    "stages.download --help",
    "scripts.summary",
    "scripts.sweep --help",
    "scripts.deps",
    "scripts.install --help",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("settings", [BARE, {"PYTHONIOENCODING": "cp1252"}])
def test_commands_in_other_locales(command: str, settings: dict[str, str]) -> None:
    done = run(f"python -m {command}", **settings)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS[:-1])
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_commands_whose_output_cannot_be_written(command: str) -> None:
    done = run(f"python -m {command} > /dev/full")
    assert b"Traceback" not in done.stderr
    assert b"standard output: No space left on device" in done.stderr
    done = run(f"(sleep 0.2; python -m {command}) | true")
    assert done.stderr == b""
    assert done.returncode in ((0,) if command.startswith("stages") else (141,))
