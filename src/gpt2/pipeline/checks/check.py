"""The result of a check, and what several checks use."""

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass

PROGRAM_SECONDS = 20
"""Timeout for a program that takes about a second on an idle machine."""


@dataclass(frozen=True)
class Check:
    """A line of the table that ``gpt2 doctor`` prints."""

    name: str
    works: bool
    finding: str
    remedy: str = ""
    """What to do if it does not work."""
    needed: bool = True
    """Whether the profile needs it."""

    @property
    def verdict(self) -> str:
        """``works``, ``problem`` or ``absent``."""
        return "works" if self.works else "problem" if self.needed else "absent"


def installed_version(name: str) -> str:
    """A distribution's version, without a local part such as ``+cpu``; empty: not installed."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def output_of(*command: str) -> str:
    """The standard output of a program; empty if it fails, is missing or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding=sys.getfilesystemencoding(),  # so that paths are as Python spells them
            errors="surrogateescape",
            check=True,
            timeout=PROGRAM_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
