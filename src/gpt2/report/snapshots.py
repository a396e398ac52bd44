"""Small snapshots of reported runs, so that the next report can compare."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import Params, parse

KEPT = 50
"""Older snapshots are deleted."""

log = logging.getLogger(__name__)


class Snapshot(Params):
    """A run's parameters, metrics and scores."""

    model_config = ConfigDict(extra="ignore")

    time: str
    """ISO 8601 in UTC with a fixed length, so that sorting by text sorts by time."""
    commit: str | None
    dirty: bool
    """Whether files differed from the commit."""
    results: str
    """sha256 of metrics, scores and judge: equal for runs with the same results."""
    params: dict[str, Any]
    """By dotted key."""
    metrics: dict[str, Any]
    """By dotted key; the first part is the stage."""
    judge: dict[str, Any] | None
    """The judge's digest and options: scores of different judges cannot be compared."""
    scores: dict[str, dict[str, float | None]]
    """Scores of the finetuned model, by measure and item key; None: not scored."""


def results_digest(
    metrics: Mapping[str, Any],
    judge: Mapping[str, Any] | None,
    scores: Mapping[str, Mapping[str, float | None]],
) -> str:
    """sha256 of a run's results, without its time and parameters."""
    return hashlib.sha256(json.dumps([metrics, judge, scores], sort_keys=True).encode()).hexdigest()


def item_key(*texts: str) -> str:
    """A key for an item, made from its texts: the same texts give the same key in every run."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def previous(directory: Path, results: str) -> Snapshot | None:
    """The newest snapshot with results other than ``results``."""
    for path in sorted(directory.glob("*.json"), reverse=True):
        snapshot = _read(path)
        if snapshot and snapshot.results != results:
            return snapshot
    return None


def save(directory: Path, snapshot: Snapshot) -> None:
    """Save ``snapshot``; it replaces the newest one if that has the same results."""
    name = f"{snapshot.time.replace(':', '')}-{snapshot.results[:12]}.json"
    files.write_text(directory / name, snapshot.model_dump_json() + "\n")
    old = [path for path in sorted(directory.glob("*.json")) if path.name != name]
    same = [path for path in old[-1:] if path.stem.endswith(snapshot.results[:12])]
    for path in [*same, *old[: max(0, len(old) + 1 - KEPT)]]:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot | None:
    """A snapshot; None with a warning if it is damaged or has an older format."""
    try:
        return parse(Snapshot, files.read_json(path), path.name)
    except UserError:
        log.warning("%s: skipped, it is damaged or has an older format", path)
        return None
