"""Whether git works here, which DVC builds on. ``python -m gpt2.core.repository`` asks that before
anything is installed, so it needs the standard library alone.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GIT_SECONDS = 20
COMMIT = 'git add . && git commit -m "Start"'


@dataclass(frozen=True)
class Finding:
    """What git says of a directory."""

    commit: str = ""
    """Short; empty if there is none, or git does not tell."""
    problem: str = ""
    remedy: str = ""
    stops: bool = False
    """Whether DVC cannot even run a stage."""


def examine(directory: Path) -> Finding:
    """Ask git for the commit; what it says instead, with what helps."""
    command = ["git", "-C", str(directory), "rev-parse", "--verify", "--short", "HEAD"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=GIT_SECONDS,
        )
    except FileNotFoundError:
        return Finding(problem="git is not installed", remedy="Install git")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(problem=f"git does not run ({error})", remedy="Fix or install git")
    if done.returncode == 0:
        return Finding(commit=done.stdout.strip())
    said = done.stderr.strip()
    if trust := re.search(r"git config --global --add safe\.directory .*", said):
        return Finding(
            problem="git does not trust this directory, for it belongs to another user",
            remedy=f"If you do: {trust[0]}",
        )
    if "not a git repository" in said:
        return Finding(
            problem="no git repository here (a download as .zip has none)",
            remedy=f"git init && {COMMIT}",
            stops=True,
        )
    if "single revision" in said:
        return Finding(problem="no commit here", remedy=COMMIT)
    return Finding(problem=next(iter(said.splitlines()), "git fails"), remedy="git status")


def main() -> int:
    """Tell what is wrong in the working directory; 1 if it stops the pipeline."""
    found = examine(Path.cwd())
    if found.problem:
        level = "error" if found.stops else "note"
        print(f"{level}: {found.problem}. {found.remedy}", file=sys.stderr)
    return int(found.stops)


if __name__ == "__main__":
    sys.exit(main())
