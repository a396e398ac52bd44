"""Check that git works in a directory, as DVC requires.

``python -m gpt2.core.repository`` runs this check before anything is installed, so this module uses
the standard library only.
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
    """The state of git in a directory."""

    commit: str = ""
    """Short hash of the commit; empty if there is none or git fails."""
    problem: str = ""
    remedy: str = ""
    stops: bool = False
    """Whether the problem keeps DVC from running a stage."""


def examine(directory: Path) -> Finding:
    """Ask git for the current commit; describe its error and the remedy if it has none."""
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
    message = done.stderr.strip()
    if trust := re.search(r"git config --global --add safe\.directory .*", message):
        return Finding(
            problem="git does not trust this directory, because it belongs to another user",
            remedy=f"If you trust it: {trust[0]}",
        )
    if "not a git repository" in message:
        return Finding(
            problem="no git repository here (a .zip download has none)",
            remedy=f"git init && {COMMIT}",
            stops=True,
        )
    if "single revision" in message:
        return Finding(problem="no commit here", remedy=COMMIT)
    return Finding(problem=next(iter(message.splitlines()), "git failed"), remedy="git status")


def main() -> int:
    """Print the problem in the working directory, if any; return 1 if it stops the pipeline."""
    found = examine(Path.cwd())
    if found.problem:
        level = "error" if found.stops else "note"
        print(f"{level}: {found.problem}. {found.remedy}", file=sys.stderr)
    return int(found.stops)


if __name__ == "__main__":
    sys.exit(main())
