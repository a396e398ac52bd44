"""Where a report is made: the commit, the versions, the processor."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2.tracking.context import git_tags, versions


@dataclass(frozen=True)
class Machine:
    """The facts of a machine and its checkout."""

    commit: str | None
    """None outside of git."""
    dirty: bool
    """Tracked files differ from the commit, what a run itself writes aside."""
    versions: Mapping[str, str]
    device: str


def this_machine(checkout: Path) -> Machine:
    """The facts of this machine and of the git work tree ``checkout``."""
    git = git_tags(checkout)
    return Machine(
        commit=git.get("mlflow.source.git.commit"),
        dirty=git.get("git_dirty") == "true",
        versions=versions(),
        device=_device(),
    )


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return torch.cuda.get_device_name(0) + (f" × {count}" if count > 1 else "")
    cores = f"{os.cpu_count()} cores"
    if torch.backends.mps.is_available():
        return f"{platform.machine()} with Metal, {cores}"
    return f"{_processor()}, {cores}"


def _processor() -> str:
    """The processor's name; only Linux tells it in a file."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
