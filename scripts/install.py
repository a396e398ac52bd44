"""PyTorch first, in the build that suits this machine: ``python -m scripts.install``.

What the package index has for Linux is the CUDA build, NVIDIA's libraries included. Where no NVIDIA
GPU answers, the CPU build comes from PyTorch's own index; `pip install -r requirements.txt` then
finds it installed and takes all other packages from where the user's pip takes them. This runs in
an environment that holds nothing but pip, and installs into it.
"""

import argparse
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

PIP = (sys.executable, "-m", "pip")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_ON_PLAIN_INDEX = (("Linux", "x86_64"), ("Linux", "aarch64"))
"""System and processor."""
DRIVER_SECONDS = 20
"""An idle driver wakes up every GPU before it answers."""
CONNECT_SECONDS, PROBE_SECONDS = 5, 30

SIZES = {
    "PyTorch's CPU build": (0.5, 2.0),
    "PyTorch with CUDA": (3.0, 6.0),
    "PyTorch for macOS": (0.3, 1.5),
    "without PyTorch": (0.3, 1.3),
}
"""GB to download and on the disk, for all that requirements.txt names, Python 3.11. Downloads are
the sizes of the wheels. Disk is what .venv takes with the CPU build on x86-64; the others differ
from it as their unpacked wheels do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Unless torch is there: say what the installation takes, install torch; pip's exit status."""
    parser = argparse.ArgumentParser(description="Install PyTorch, as this machine needs it.")
    parser.add_argument("file", nargs="?", type=Path, default=Path("requirements.txt"))
    parser.add_argument("--index", default="", help="cpu, plain, an address, a directory")
    options = parser.parse_args(arguments)
    pin = pinned(options.file)
    if installed() == pin:
        return 0
    index = index_for(options.index, platform.system(), platform.machine())
    if index and (problem := objection(index, pin)):
        _say(f"note: {_shown(index)} {problem}; taking PyTorch from where pip takes all packages")
        index = None
    _say(announcement(index, platform.system(), platform.machine()))
    return install(index, pin) if index else 0


def pinned(file: Path) -> str:
    """The version of torch that a requirements file names."""
    found = re.search(r"^torch==([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise SystemExit(f"error: {file} has no line torch==...")
    return found[1]


def installed() -> str | None:
    """The version of torch in this environment, whatever its build."""
    try:
        return _release(version("torch"))
    except PackageNotFoundError:
        return None


def index_for(wanted: str, system: str, machine: str) -> str | None:
    """Where PyTorch comes from: an address or a directory; None is where all other packages do.

    ``wanted`` is that, or ``cpu``, ``plain`` (None), or empty: look at the machine.
    """
    match wanted:
        case "plain":
            return None
        case "cpu":
            return CPU_INDEX
        case "":
            on_plain_index = (system, machine) not in CUDA_ON_PLAIN_INDEX or nvidia_gpu()
            return None if on_plain_index else CPU_INDEX
    return wanted


def nvidia_gpu() -> bool:
    """Whether NVIDIA's driver answers and lists a GPU."""
    command = ["nvidia-smi", "--list-gpus"]
    try:
        answer = _answer(command, DRIVER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.startswith("GPU ")


def objection(index: str, pin: str) -> str:
    """Why this Python cannot have torch of this version from there; empty if it can.

    pip is asked, once and briefly: it knows the user's proxy, certificates and passwords.
    """
    command = [*PIP, "index", "versions", "torch", *_from(index), "-vv", "--retries=0"]
    command.append(f"--timeout={CONNECT_SECONDS}")
    try:
        answer = _answer(command, PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return "is too slow"
    if "Could not fetch URL" in answer.stdout:
        return "cannot be read"
    listed = re.search(r"^Available versions: (.*)", answer.stdout, re.MULTILINE)
    if listed and pin in map(_release, listed[1].split(", ")):
        return ""
    return f"has no torch {pin} for this Python"


def install(index: str, pin: str) -> int:
    """Install torch, and nothing that it depends on, from there; pip's exit status."""
    return subprocess.run([*PIP, "install", "--no-deps", *_from(index), f"torch=={pin}"]).returncode


def announcement(index: str | None, system: str, machine: str) -> str:
    """What the installation takes, in a line."""
    if index == CPU_INDEX:
        build = "PyTorch's CPU build"
    elif index:
        build = "without PyTorch"
    elif system == "Darwin":
        build = "PyTorch for macOS"
    elif (system, machine) in CUDA_ON_PLAIN_INDEX:
        build = "PyTorch with CUDA"
    else:
        build = "PyTorch's CPU build"
    download, disk = SIZES[build]
    return f"packages: at most {download} GB to download, {disk} GB on the disk ({build})"


def _answer(command: Sequence[str], seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds
    )


def _from(index: str) -> list[str]:
    """pip's options for wheels of torch from there and, if so configured, the user's own links.

    As links, not as an index, so that no other index that the user's pip knows takes part.
    """
    here = Path(index)
    if not here.is_dir():
        links = f"{index.rstrip('/')}/torch/"
    else:  # as an index, or just with wheels in it
        links = str(here / "torch" if (here / "torch").is_dir() else here)
    return ["--no-index", f"--find-links={links}"]


def _release(version: str) -> str:
    """``2.13.0`` of ``2.13.0+cpu``."""
    return version.partition("+")[0]


def _shown(index: str) -> str:
    """The host of an address, which may hold a password; a directory as it is."""
    return urlsplit(index).hostname or index


def _say(line: str) -> None:
    """Print a line, as far as standard output takes it: the installation does not hang on that."""
    with suppress(OSError):
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
