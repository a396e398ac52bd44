"""Checks of the working copy: git, DVC and MLflow."""

import os
import shutil
import sqlite3
import sys
from pathlib import Path

from gpt2.core import repository
from gpt2.pipeline.checks.check import Check, installed_version, output_of
from gpt2.tracking.store import STORE, own_store, probe


def git(root: Path) -> Check:
    """``root`` is a git repository with a commit, as `dvc exp run` needs one."""
    found = repository.examine(root)
    return Check("git", not found.problem, found.problem or f"at {found.commit}", found.remedy)


def dvc(root: Path) -> Check:
    """DVC is installed, ``root`` is its repository, and its stages run this Python."""
    activate = "Activate the environment: . .venv/bin/activate"
    if not shutil.which("dvc"):
        return Check("dvc", False, "not on the PATH", activate)
    if not (root / ".dvc").is_dir():
        return Check("dvc", False, f"{root.resolve()} is not a DVC repository", "dvc init")
    python = shutil.which("python")
    prefix = output_of(python, "-c", "import sys; print(sys.prefix)") if python else ""
    if prefix != sys.prefix:
        return Check("dvc", False, f"its stages would run {python or 'no python at all'}", activate)
    return Check("dvc", True, installed_version("dvc") or "installed elsewhere")


def mlflow(root: Path) -> Check:
    """MLflow's tracking store can be written; without it, stages run untracked."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store(root.resolve())
    own = uri == own_store(root.resolve())
    shown = STORE if own else "MLFLOW_TRACKING_URI"
    remedy = "Runs are not tracked until you fix it or unset MLFLOW_TRACKING_URI"
    try:
        if own and not (root / STORE).exists():
            if not os.access(root, os.W_OK):
                raise PermissionError(f"{root} is not writable")
        elif uri != "off":
            probe(uri, root.resolve())
    except (OSError, sqlite3.Error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return Check("MLflow", False, f"{shown}: {reason}", remedy, needed=False)
    return Check("MLflow", True, "switched off" if uri == "off" else f"{shown} can be written")
