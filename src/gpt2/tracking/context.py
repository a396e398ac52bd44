"""Names and tags of runs: parameters, versions, git commit, and the execution of the pipeline."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("torch", "mlflow", "dvc")
GIT_SECONDS = 5
# Files that the pipeline itself rewrites do not make the work tree dirty.
GIT_STATUS = (
    *("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"),
    *("--", ".", ":(exclude)metrics", ":(exclude)plots", ":(exclude)dvc.lock"),
)


def run_name(stage: str, params: Mapping[str, object], highlight: str | None) -> str:
    """Stage, most important parameter and profile: ``finetune · lr=5e-5 · gpt2-124m``.

    ``highlight`` is the dotted key of that parameter. Parts that are not in ``params`` are omitted.
    """
    flat = flatten(params)
    parts = [stage]
    if highlight in flat:
        parts.append(f"{highlight.rpartition('.')[2]}={_short(flat[highlight])}")
    return " · ".join([*parts, *_profile(params)])


def pipeline_name(params: Mapping[str, object], label: str) -> str:
    """Profile and label of the execution: ``starter · spicy-llama``."""
    return " · ".join([*_profile(params), label])


def _profile(params: Mapping[str, object]) -> list[str]:
    return [str(params["profile"])] if "profile" in params else []


def _short(value: object) -> str:
    return re.sub(r"e([+-])0", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings to dotted keys: ``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(values: object) -> str:
    """The first 12 hex digits of the sha256 of ``values``, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of Python and of the main packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_tags(directory: Path) -> dict[str, str]:
    """The git commit, and whether tracked files differ from it; {} without git or a commit."""
    try:
        status = subprocess.run(
            GIT_STATUS, cwd=directory, timeout=GIT_SECONDS, check=True, capture_output=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = status.stdout.decode(errors="replace").splitlines()
    heads = {words[1]: words[2] for line in lines if (words := line.split())[0] == "#"}
    commit = heads.get("branch.oid", "(initial)")
    if commit == "(initial)":
        return {}
    dirty = any(not line.startswith("#") for line in lines)
    return {"mlflow.source.git.commit": commit, "git_dirty": str(dirty).lower()}


@dataclass(frozen=True)
class Invocation:
    """One execution of the pipeline."""

    key: str
    """Identifies the execution: the same for all its stages, and for no other execution."""
    label: str
    """Shown to people: the name of the experiment, else the start time."""
    process: str
    """The process that the execution ends with, see `process_key`."""
    command: str
    """Command line of dvc; empty outside of dvc."""


def invocation(params: Mapping[str, object]) -> Invocation | None:
    """The dvc experiment or ``dvc repro`` that has started this process; None outside of dvc."""
    dvc = _dvc()
    process = process_key(dvc[0]) if dvc else process_key(psutil.Process())
    command = dvc[1] if dvc else ""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        # An experiment that is run again under the same name and parameters is the same execution.
        parts = [experiment, os.environ.get("DVC_EXP_BASELINE_REV"), fingerprint(params)]
        return Invocation(fingerprint(parts), experiment, process, command)
    if dvc:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(dvc[0].create_time()))
        return Invocation(fingerprint(process), started, process, command)
    return None


def _dvc() -> tuple[psutil.Process, str] | None:
    """The nearest ancestor process that is dvc, and its command line."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        # The system shows `dvc repro` as `python .venv/bin/dvc repro` or `python -m dvc repro`.
        for index, word in enumerate(words[:3]):
            if Path(word).name == "dvc":
                return process, " ".join(["dvc", *words[index + 1 :]])[:500]
    return None


def process_key(process: psutil.Process) -> str:
    """Identifies a process: host, process id and start time, as process ids are reused."""
    return f"{socket.gethostname()} {process.pid} {_start_time(process):.2f}"


def has_ended(key: str | None) -> bool:
    """Whether a process has ended; False if it is on another host or unknown."""
    host, pid, started = key.rsplit(" ", 2) if key else ("", "", "")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        other = abs(_start_time(process) - float(started)) > 1
        return other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _start_time(process: psutil.Process) -> float:
    """Start time of a process, in seconds since the machine started.

    Setting the clock does not change it. Absolute times would change, as they are computed from the
    current time.
    """
    return process.create_time() - psutil.boot_time()
