"""What a run came to, kept small beside the work in progress, so that the next one can compare."""

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

log = logging.getLogger(__name__)


class Snapshot(Params):
    """A run's parameters, metrics and scores."""

    model_config = ConfigDict(extra="ignore")

    time: str
    """ISO 8601, in UTC and of one length: snapshots are in the order of their times."""
    commit: str | None
    dirty: bool
    """Files differed from the commit."""
    results: str
    """sha256 over metrics, scores and judge: equal for two runs that came to the same."""
    params: dict[str, Any]
    """By dotted key."""
    metrics: dict[str, Any]
    """By dotted key; the first part is the stage."""
    judge: dict[str, Any] | None
    """The judge's digest and options: only scores of one judge compare."""
    scores: dict[str, dict[str, float | None]]
    """Of the finetuned model: by measure and item. None: the judge gave no score."""


def results_digest(
    metrics: Mapping[str, Any],
    judge: Mapping[str, Any] | None,
    scores: Mapping[str, Mapping[str, float | None]],
) -> str:
    """sha256 over what a run came to; its time and parameters do not count."""
    return hashlib.sha256(json.dumps([metrics, judge, scores], sort_keys=True).encode()).hexdigest()


def item_key(*texts: str) -> str:
    """Names an item by what it asks: two runs with the same key put the same question."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def previous(directory: Path, results: str) -> Snapshot | None:
    """The newest snapshot with other results than ``results``."""
    for path in sorted(directory.glob("*.json"), reverse=True):
        snapshot = _read(path)
        if snapshot and snapshot.results != results:
            return snapshot
    return None


def save(directory: Path, snapshot: Snapshot) -> None:
    """Keep ``snapshot``, in place of the newest one if that came to the same; the last 50 stay."""
    name = f"{snapshot.time.replace(':', '')}-{snapshot.results[:12]}.json"
    files.write_text(directory / name, snapshot.model_dump_json() + "\n")
    old = [path for path in sorted(directory.glob("*.json")) if path.name != name]
    same = [path for path in old[-1:] if path.stem.endswith(snapshot.results[:12])]
    for path in [*same, *old[: max(0, len(old) + 1 - KEPT)]]:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot | None:
    """A damaged snapshot, or one of an older form, is no reason to fail."""
    try:
        return parse(Snapshot, files.read_json(path), path.name)
    except UserError:
        log.warning("%s: damaged or of an older form, passed over", path)
        return None
