"""Install the build of PyTorch that suits this machine: ``python -m scripts.install``.

The default package index has the CUDA build for Linux, with NVIDIA's libraries. On a machine
without an NVIDIA GPU, this script installs the CPU build from PyTorch's own index.
`pip install -r requirements.txt` then finds torch installed and gets all other packages from the
user's index. The script runs in an environment that has only pip, and installs into it.
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
"""System and processor architecture."""
DRIVER_SECONDS = 20
"""Timeout of nvidia-smi: a driver in standby starts every GPU before it answers."""
CONNECT_SECONDS, PROBE_SECONDS = 5, 30

SIZES = {
    "PyTorch's CPU build": (0.5, 2.0),
    "PyTorch with CUDA": (3.0, 6.0),
    "PyTorch for macOS": (0.3, 1.5),
    "without PyTorch": (0.3, 1.3),
}
"""GB to download and GB on disk for all of requirements.txt with Python 3.11.

Downloads are the sizes of the wheels. The disk space is that of .venv with the CPU build on x86-64;
for the other builds, the difference of the unpacked wheels is added.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the size of the installation and install torch, unless it is installed.

    Returns pip's exit status.
    """
    parser = argparse.ArgumentParser(description="Install PyTorch for this machine.")
    parser.add_argument("file", nargs="?", type=Path, default=Path("requirements.txt"))
    parser.add_argument("--index", default="", help="cpu, plain, a URL or a directory")
    options = parser.parse_args(arguments)
    pin = pinned(options.file)
    if installed() == pin:
        return 0
    index = index_for(options.index, platform.system(), platform.machine())
    if index and (problem := problem_with(index, pin)):
        _print_line(f"note: {_shown(index)} {problem}; installing PyTorch from pip's default index")
        index = None
    _print_line(announcement(index, platform.system(), platform.machine()))
    return install(index, pin) if index else 0


def pinned(file: Path) -> str:
    """The version of torch in a requirements file."""
    found = re.search(r"^torch==([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise SystemExit(f"error: {file} has no line torch==...")
    return found[1]


def installed() -> str | None:
    """The installed version of torch, without its build; None if it is not installed."""
    try:
        return _release(version("torch"))
    except PackageNotFoundError:
        return None


def index_for(wanted: str, system: str, machine: str) -> str | None:
    """The URL or directory to install PyTorch from; None for pip's default index.

    Args:
        wanted: a URL or directory, ``cpu`` (PyTorch's own index), ``plain`` (pip's default index),
            or empty to choose by the machine.
        system: such as ``Linux``, see `platform.system`.
        machine: such as ``x86_64``, see `platform.machine`.
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
    """Whether NVIDIA's driver responds and lists a GPU."""
    command = ["nvidia-smi", "--list-gpus"]
    try:
        answer = _run(command, DRIVER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.startswith("GPU ")


def problem_with(index: str, pin: str) -> str:
    """Why this version of torch cannot be installed from ``index``; empty if it can.

    This asks pip, which knows the user's proxy, certificates and passwords. It does not retry.
    """
    command = [*PIP, "index", "versions", "torch", *_index_options(index), "-vv", "--retries=0"]
    command.append(f"--timeout={CONNECT_SECONDS}")
    try:
        answer = _run(command, PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return "is too slow"
    if "Could not fetch URL" in answer.stdout:
        return "cannot be read"
    listed = re.search(r"^Available versions: (.*)", answer.stdout, re.MULTILINE)
    if listed and pin in map(_release, listed[1].split(", ")):
        return ""
    return f"has no torch {pin} for this Python"


def install(index: str, pin: str) -> int:
    """Install torch without its dependencies from ``index``; return pip's exit status."""
    return subprocess.run(
        [*PIP, "install", "--no-deps", *_index_options(index), f"torch=={pin}"]
    ).returncode


def announcement(index: str | None, system: str, machine: str) -> str:
    """One line with the size of the installation."""
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
    return f"packages: at most {download} GB to download, {disk} GB on disk ({build})"


def _run(command: Sequence[str], seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds
    )


def _index_options(index: str) -> list[str]:
    """Options of pip to install torch from ``index`` only.

    With ``--no-index``, pip uses no other index of the user's configuration. Links in that
    configuration still count.
    """
    here = Path(index)
    if not here.is_dir():
        links = f"{index.rstrip('/')}/torch/"
    else:  # laid out as an index, or just a directory of wheels
        links = str(here / "torch" if (here / "torch").is_dir() else here)
    return ["--no-index", f"--find-links={links}"]


def _release(version: str) -> str:
    """The version without its build: ``2.13.0`` for ``2.13.0+cpu``."""
    return version.partition("+")[0]


def _shown(index: str) -> str:
    """The host of a URL, as the URL may contain a password; a directory unchanged."""
    return urlsplit(index).hostname or index


def _print_line(line: str) -> None:
    """Print a line; if standard output fails, the installation continues without it."""
    with suppress(OSError):
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
