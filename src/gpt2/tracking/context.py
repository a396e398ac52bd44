"""What a run is called, and what it is tagged with, so that people find it and can repeat it."""

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
# What the pipeline itself rewrites while it runs makes no commit dirty.
GIT_STATUS = (
    *("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"),
    *("--", ".", ":(exclude)metrics", ":(exclude)plots", ":(exclude)dvc.lock"),
)


def run_name(stage: str, params: Mapping[str, object], highlight: str | None) -> str:
    """``finetune · lr=5e-5 · gpt2-124m``: stage, the parameter that matters most, profile.

    ``highlight`` is that parameter's dotted key; what ``params`` lack is left out.
    """
    flat = flatten(params)
    parts = [stage]
    if highlight in flat:
        parts.append(f"{highlight.rpartition('.')[2]}={_brief(flat[highlight])}")
    return " · ".join([*parts, *_profile(params)])


def pipeline_name(params: Mapping[str, object], label: str) -> str:
    """``starter · spicy-llama``: profile, and what the execution itself is called."""
    return " · ".join([*_profile(params), label])


def _profile(params: Mapping[str, object]) -> list[str]:
    return [str(params["profile"])] if "profile" in params else []


def _brief(value: object) -> str:
    return re.sub(r"e([+-])0", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(values: object) -> str:
    """The first 12 digits of a sha256 over ``values``, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what a run does, where they are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_tags(directory: Path) -> dict[str, str]:
    """The commit of a work tree, and whether tracked files differ from it; {} without git."""
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
    """What all its stages share, and no other execution has."""
    label: str
    """For people: the name of the experiment, else the time."""
    process: str
    """Which process it ends with, see `process_key`."""
    command: str


def invocation(params: Mapping[str, object]) -> Invocation | None:
    """The dvc experiment or ``dvc repro`` that this process is a stage of; None outside of dvc."""
    dvc = _dvc()
    process = process_key(dvc[0]) if dvc else process_key(psutil.Process())
    command = dvc[1] if dvc else ""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        # An experiment that is run again under its name is the same one if its parameters are.
        parts = [experiment, os.environ.get("DVC_EXP_BASELINE_REV"), fingerprint(params)]
        return Invocation(fingerprint(parts), experiment, process, command)
    if dvc:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(dvc[0].create_time()))
        return Invocation(fingerprint(process), started, process, command)
    return None


def _dvc() -> tuple[psutil.Process, str] | None:
    """The nearest ancestor that is dvc, and its command line."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        # `dvc repro` is `python .venv/bin/dvc repro` to the system, or `python -m dvc repro`.
        for place, word in enumerate(words[:3]):
            if Path(word).name == "dvc":
                return process, " ".join(["dvc", *words[place + 1 :]])[:500]
    return None


def process_key(process: psutil.Process) -> str:
    """Host, process id and start: process ids are used again."""
    return f"{socket.gethostname()} {process.pid} {_start(process):.2f}"


def has_ended(key: str | None) -> bool:
    """Whether a process is known to be gone; one on another host is not."""
    host, pid, started = key.rsplit(" ", 2) if key else ("", "", "")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        other = abs(_start(process) - float(started)) > 1
        return other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _start(process: psutil.Process) -> float:
    """When a process started, in seconds after the machine did: no setting of the clock moves it.

    The time of day at which either started does move, for it is counted back from the clock.
    """
    return process.create_time() - psutil.boot_time()
