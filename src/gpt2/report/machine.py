"""Where a report was written: the commit, versions of packages, the processor."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2.tracking.context import git_tags, versions


@dataclass(frozen=True)
class Machine:
    """A machine and its git checkout."""

    commit: str | None
    """None without git."""
    dirty: bool
    """Tracked files differ from the commit, not counting what a run writes."""
    versions: Mapping[str, str]
    device: str


def this_machine(checkout: Path) -> Machine:
    """This machine, with the git work tree ``checkout``."""
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
    """The processor's model name on Linux, elsewhere its architecture."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
