"""Open the MLflow run of a stage: under the run of its pipeline, and continued after a crash."""

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from gpt2.tracking.active_run import PARENT_TAG, STAGE_TAG, ActiveRun, RunSpec
from gpt2.tracking.context import (
    Invocation,
    fingerprint,
    git_tags,
    has_ended,
    invocation,
    pipeline_name,
    process_key,
    run_name,
    versions,
)
from gpt2.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

PIPELINE = "pipeline"
"""The `STAGE_TAG` of a parent run, which stands for one execution of the pipeline."""
INVOCATION_TAG = "gpt2.invocation"
"""The execution of the pipeline that a parent run belongs to; see `Invocation.key`."""
PROCESS_TAG = "gpt2.process"
"""The process that writes to a run; see `process_key`."""
RESUME_TAG = "gpt2.resume"
"""The directory of the work in progress, from which the run can be continued."""


def open_run(spec: RunSpec, uri: str, root: Path, resume: Path | None) -> ActiveRun:
    """Continue the interrupted run of the work in ``resume``, if there is one, or create a run.

    First, runs whose processes on this host have ended are closed.
    """
    store = Store(uri, root)
    tags = {"config": fingerprint(spec.params), **versions(), **git_tags(Path.cwd())}
    tags |= {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    if "profile" in spec.params:
        tags["profile"] = str(spec.params["profile"])
    with store.lock():
        _close_orphans(store)
        if execution := invocation(spec.params):
            tags["invocation"] = execution.command or execution.label
            tags[PARENT_TAG] = _open_parent(store, spec, execution, tags)
        tags |= {STAGE_TAG: spec.stage, PROCESS_TAG: process_key(psutil.Process())}
        if resume:
            tags[RESUME_TAG] = fingerprint([socket.gethostname(), str(resume.resolve())])
            if found := _interrupted_run(store, tags[RESUME_TAG]):
                return _reopen(store, found, spec, tags)
        name = run_name(spec.stage, spec.params, spec.highlight)
        run = store.create(name, spec.started, tags, spec.own_params())
    return ActiveRun(store, run, spec)


def _close_orphans(store: Store) -> None:
    """Mark runs as FAILED that are RUNNING although their process was killed."""
    running = store.search("attributes.status = 'RUNNING'")
    orphans = [run for run in running if has_ended(run.data.tags.get(PROCESS_TAG))]
    # A parent run stays open after its dvc process has ended, while one of its stages still runs.
    parents = {run.data.tags.get(PARENT_TAG) for run in running if run not in orphans}
    for run in orphans:
        if run.info.run_id not in parents:
            store.client.set_terminated(run.info.run_id, "FAILED")


def _open_parent(
    store: Store, spec: RunSpec, execution: Invocation, tags: Mapping[str, str]
) -> str:
    """Find or create the run of this execution of the pipeline; return its id."""
    from gpt2.core.yaml_files import dump_yaml

    for found in store.search(f"tags.`{INVOCATION_TAG}` = '{execution.key}'"):
        store.set_tags(found.info.run_id, {PROCESS_TAG: execution.process})
        store.client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)
    own = {STAGE_TAG: PIPELINE, INVOCATION_TAG: execution.key, PROCESS_TAG: execution.process}
    own["mlflow.source.name"] = "dvc"
    name = pipeline_name(spec.params, execution.label)
    run = store.create(name, spec.started, {**tags, **own}, spec.params)
    store.client.log_text(run.info.run_id, dump_yaml(spec.params), "params.yaml")
    return str(run.info.run_id)


def _interrupted_run(store: Store, key: str) -> "Run | None":
    """The latest run with this `RESUME_TAG`, if it did not finish."""
    query = f"tags.`{RESUME_TAG}` = '{key}' and attributes.status != 'RUNNING'"
    found = store.search(
        f"{query} and attributes.status != 'FINISHED'", ["attributes.start_time DESC"]
    )
    return next(iter(found), None)


def _reopen(store: Store, run: "Run", spec: RunSpec, tags: Mapping[str, str]) -> ActiveRun:
    """Continue an interrupted run, under the parent run in ``tags``."""
    run_id = run.info.run_id
    store.set_tags(run_id, tags)
    store.client.update_run(run_id, status="RUNNING")
    last_steps = {
        key: max(point.step for point in store.client.get_metric_history(run_id, key))
        for key in run.data.metrics
    }
    return ActiveRun(store, store.client.get_run(run_id), spec, last_steps)
