"""A run in MLflow's store: under the run of its pipeline, and found again after a crash.

Whatever is sent may raise one of `failures`.
"""

import gc
import json
import logging
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import psutil

from gpt2.core import files
from gpt2.core.locks import locked
from gpt2.tracking.context import (
    Invocation,
    fingerprint,
    flatten,
    git_tags,
    has_ended,
    invocation,
    pipeline_name,
    process_key,
    run_name,
    versions,
)
from gpt2.tracking.names import mlflow_name, model_name, renamed, stored

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag

EXPERIMENT = "gpt2-from-scratch"
EXPERIMENT_TAGS = {
    # So that MLflow's pages are those for training, not those for agents.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Each line is one execution of the pipeline, with all its parameters and results; "
        "below it are its stages."
    ),
}
STORE = "mlflow.db"
ARTIFACTS = "mlruns"
STAGE_TAG = "stage"
PIPELINE = "pipeline"
"""The `STAGE_TAG` of a run that stands for a whole execution of the pipeline."""
INVOCATION_TAG = "gpt2.invocation"
"""Which execution; see `Invocation.key`."""
PROCESS_TAG = "gpt2.process"
"""Which process a run lives and dies with; see `process_key`."""
RESUME_TAG = "gpt2.resume"
"""Where the work in progress lies that the run can be gone on with."""
PARENT_TAG = "mlflow.parentRunId"
BEST = "best"
"""Alias of the registered version that is the best so far."""
BATCHES = {"metrics": 1000, "params": 100, "tags": 100}
"""What one `log_batch` of MLflow takes at most."""
PROBE_SECONDS = 3
SYSTEM_SECONDS = 10
"""Time between two measurements of processor, memory, disk, network and GPU."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What goes wrong is said here, once.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away for half a minute; MLflow would try for four.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's environment variables, where the user has not set them."""


_log = logging.getLogger(__name__)


class Point(NamedTuple):
    """A number at a time, in milliseconds; without a step it is a result."""

    key: str
    value: float
    time: int
    step: int | None


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it is opened."""

    stage: str
    params: Mapping[str, object]
    """All sections; they are the parameters of the parent run."""
    sections: Sequence[str]
    """Those that are the parameters of the stage."""
    highlight: str | None
    """Dotted key of the parameter that the run's name shows."""
    started: float
    """In seconds since 1970."""


def own_store(root: Path) -> str:
    """The address of the repository's own store, whatever characters its path has.

    SQLAlchemy decodes it, and takes what follows a ``?`` for options. With the driver's name MLflow
    leaves it to SQLAlchemy; without, it makes a directory of the encoded name.
    """
    return f"sqlite+pysqlite:///{quote(os.fsencode(root / STORE))}"


def probe(uri: str, root: Path) -> None:
    """Raise one of `failures` if the store does not answer within `PROBE_SECONDS`."""
    if uri.startswith(("http://", "https://")):
        import requests

        # A question that the server must ask its database.
        question = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
        requests.get(question, {"experiment_name": EXPERIMENT}, timeout=PROBE_SECONDS)
    elif uri == own_store(root):
        if str(root) != stored(root):  # bytes that the locale's encoding has no characters for
            raise OSError(
                f"{stored(root)} has characters unknown to this locale. Set LC_ALL=C.UTF-8"
            )
        with closing(sqlite3.connect(root / STORE, timeout=PROBE_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")


class DeletedExperimentError(Exception):
    """The experiment was deleted in the store, which keeps its name until it is restored."""

    def __init__(self, name: str, experiment: str, uri: str, root: Path) -> None:
        where = f"MLFLOW_TRACKING_URI=sqlite:///{STORE} " if uri == own_store(root) else ""
        super().__init__(
            f"the experiment {name} is deleted. Bring it back: "
            f"{where}mlflow experiments restore --experiment-id {experiment}, "
            "or set MLFLOW_EXPERIMENT_NAME to another name"
        )


def failures() -> tuple[type[Exception], ...]:
    """What a store that fails may raise (those of requests are OSErrors)."""
    from alembic.util.exc import CommandError
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    own = (DeletedExperimentError, sqlite3.Error, OSError)
    return (MlflowException, ParseError, SQLAlchemyError, CommandError, *own)


def is_refusal(error: Exception) -> bool:
    """Whether the store works, and does not take this one thing."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip(" .")


def open_run(plan: Plan, uri: str, root: Path, resume: Path | None) -> "OpenRun":
    """The run of a stage: one that worked in ``resume`` and did not come to its end, else a new
    one. Runs whose processes on this host are gone are closed first.
    """
    store = Store(uri, root)
    tags = {"config": fingerprint(plan.params), **versions(), **git_tags(Path.cwd())}
    tags |= {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    if "profile" in plan.params:
        tags["profile"] = str(plan.params["profile"])
    with store.lock():
        store.close_dead()
        if called := invocation(plan.params):
            tags["invocation"] = called.command or called.label
            tags[PARENT_TAG] = store.pipeline(plan, called, tags)
        tags |= {STAGE_TAG: plan.stage, PROCESS_TAG: process_key(psutil.Process())}
        if resume:
            tags[RESUME_TAG] = fingerprint([socket.gethostname(), str(resume.resolve())])
            if found := store.unfinished(tags[RESUME_TAG]):
                return store.go_on(found, plan, tags)
        name = run_name(plan.stage, plan.params, plan.highlight)
        sections = {key: plan.params[key] for key in plan.sections}
        run = store.create(name, plan.started, tags, sections)
    return OpenRun(store, run, plan)


def experiment_in_use(uri: str, root: Path) -> str:
    """The id of the experiment that stages report to; empty if there is none yet."""
    from mlflow.tracking import MlflowClient

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = MlflowClient(uri).get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise DeletedExperimentError(name, found.experiment_id, uri, root)
    return str(found.experiment_id) if found else ""


class Store:
    """The experiment in an MLflow store."""

    def __init__(self, uri: str, root: Path) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        self._lock = root / f"{STORE}.lock"
        with _no_garbage_collection():
            from mlflow.tracking import MlflowClient

            # Two processes that make the tables or the experiment at once would fail.
            with self.lock():
                self.client = MlflowClient(uri)
                self.experiment = self._find_experiment(root)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other stages of this repository from finding or making the same runs."""
        return locked(self._lock)

    def _find_experiment(self, root: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if found := experiment_in_use(self.uri, root):
            return found
        # Absolute, as a stage may run in a copy of the repository. A server has a place of its own.
        artifacts = (root / ARTIFACTS).as_uri() if self.uri.startswith("sqlite") else None
        return self.client.create_experiment(name, artifacts, EXPERIMENT_TAGS)

    def search(self, query: str, order: Sequence[str] = ()) -> "list[Run]":
        return list(self.client.search_runs([self.experiment], query, order_by=list(order)))

    def create(
        self, name: str, started: float, tags: Mapping[str, str], params: Mapping[str, object]
    ) -> "Run":
        """A new run with all its parameters."""
        from mlflow.entities import Param

        storable = {key: stored(value) for key, value in tags.items()}
        run = self.client.create_run(
            self.experiment, _milliseconds(started), storable, stored(name)
        )
        if not run.info.run_id:
            raise ConnectionError("the store answers, but not as MLflow does")
        flat = flatten(params)
        own = [Param(mlflow_name(key), stored(value)) for key, value in flat.items()]
        self._log(run.info.run_id, "params", own)
        self.set_tags(run.info.run_id, renamed(flat))
        return run

    def pipeline(self, plan: Plan, called: Invocation, tags: Mapping[str, str]) -> str:
        """Id of the run of this execution of the pipeline, found or created."""
        from gpt2.core.yaml_files import dump_yaml

        for found in self.search(f"tags.`{INVOCATION_TAG}` = '{called.key}'"):
            self.set_tags(found.info.run_id, {PROCESS_TAG: called.process})
            self.client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)
        own = {STAGE_TAG: PIPELINE, INVOCATION_TAG: called.key, PROCESS_TAG: called.process}
        own["mlflow.source.name"] = "dvc"
        name = pipeline_name(plan.params, called.label)
        run = self.create(name, plan.started, {**tags, **own}, plan.params)
        self.client.log_text(run.info.run_id, dump_yaml(plan.params), "params.yaml")
        return str(run.info.run_id)

    def unfinished(self, key: str) -> "Run | None":
        """The last run with this `RESUME_TAG`, if it was stopped."""
        query = f"tags.`{RESUME_TAG}` = '{key}' and attributes.status != 'RUNNING'"
        found = self.search(
            f"{query} and attributes.status != 'FINISHED'", ["attributes.start_time DESC"]
        )
        return next(iter(found), None)

    def go_on(self, run: "Run", plan: Plan, tags: Mapping[str, str]) -> "OpenRun":
        """Open a stopped run again, under the parent that ``tags`` say."""
        run_id = run.info.run_id
        self.set_tags(run_id, tags)
        self.client.update_run(run_id, status="RUNNING")
        last_steps = {
            key: max(point.step for point in self.client.get_metric_history(run_id, key))
            for key in run.data.metrics
        }
        return OpenRun(self, self.client.get_run(run_id), plan, last_steps)

    def close_dead(self) -> None:
        """Close as FAILED what is RUNNING while its process is gone: it was killed."""
        running = self.search("attributes.status = 'RUNNING'")
        dead = [run for run in running if has_ended(run.data.tags.get(PROCESS_TAG))]
        # A parent whose dvc is gone stays open as long as a stage of it lives on.
        parents = {run.data.tags.get(PARENT_TAG) for run in running if run not in dead}
        for run in dead:
            if run.info.run_id not in parents:
                self.client.set_terminated(run.info.run_id, "FAILED")

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        own = [RunTag(key, stored(value)) for key, value in tags.items()]
        self._log(run_id, "tags", own)

    def log_metrics(self, run_id: str, metrics: "Sequence[Metric]") -> None:
        self._log(run_id, "metrics", metrics)

    def _log(self, run_id: str, kind: str, entities: "Sequence[Metric | Param | RunTag]") -> None:
        """Log in batches; what the store refuses is reported and skipped."""
        from mlflow.exceptions import MlflowException

        size = BATCHES[kind]
        for start in range(0, len(entities), size):
            batch = entities[start : start + size]
            try:
                self._log_batch(run_id, kind, batch)
            except MlflowException as error:
                if not is_refusal(error):
                    raise
                self._log_singly(run_id, kind, batch)

    def _log_singly(
        self, run_id: str, kind: str, batch: "Sequence[Metric | Param | RunTag]"
    ) -> None:
        from mlflow.exceptions import MlflowException

        refused = []
        for entity in batch:
            try:
                self._log_batch(run_id, kind, [entity])
            except MlflowException as error:
                refused.append(f"{entity.key}: {first_line(error)}")
                # Where all are refused it is not for their names.
                if not is_refusal(error) or len(refused) == len(batch) > 1:
                    raise
        for reason in refused:
            _log.warning("MLflow does not take %s. The rest goes on", reason)

    def _log_batch(
        self, run_id: str, kind: str, batch: "Sequence[Metric | Param | RunTag]"
    ) -> None:
        entities: dict[str, Any] = {kind: batch}
        self.client.log_batch(run_id, **entities)


class OpenRun:
    """A run that is open, and the parent run that it stands under (none outside of dvc)."""

    def __init__(
        self,
        store: Store,
        run: "Run",
        plan: Plan,
        last_steps: Mapping[str, int] | None = None,
    ) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.client = store.client
        self.id: str = run.info.run_id
        self._store = store
        self._plan = plan
        self._tags: dict[str, str] = run.data.tags
        self._parent = self._tags.get(PARENT_TAG)
        self._last_steps = last_steps or {}
        self._results: list[Point] = []
        monitor: Any = SystemMetricsMonitor  # which has no types
        self._monitor = monitor(
            self.id,
            SYSTEM_SECONDS,
            resume_logging=last_steps is not None,
            tracking_uri=store.uri,
        )
        self._monitor.start()

    def log(self, points: Sequence[Point]) -> None:
        """Points of curves, but for the steps that the run has from before a crash; results."""
        from mlflow.entities import Metric

        named = [point._replace(key=mlflow_name(point.key)) for point in points]
        new = [p for p in named if p.step is None or p.step > self._last_steps.get(p.key, -1)]
        results = [point for point in new if point.step is None]
        self._results += results
        self._store.log_metrics(self.id, [Metric(p.key, p.value, p.time, p.step or 0) for p in new])
        self._store.set_tags(self.id, renamed(point.key for point in points))
        if self._parent:
            stage = self._plan.stage
            of_stage = [Metric(_in_parent(stage, p.key), p.value, p.time, 0) for p in results]
            self._store.log_metrics(self._parent, of_stage)

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Results of other stages, for the parent run; those that it has are left alone."""
        from mlflow.entities import Metric

        if self._parent:
            known, now = self.client.get_run(self._parent).data.metrics, _milliseconds(time.time())
            results = {
                _in_parent(stage, mlflow_name(key)): value
                for stage, values in stages.items()
                for key, value in values.items()
            }
            new = {key: value for key, value in results.items() if known.get(key) != value}
            self._store.log_metrics(self._parent, [Metric(key, new[key], now, 0) for key in new])

    def tags(self, values: Mapping[str, str]) -> None:
        """More tags."""
        self._store.set_tags(self.id, {mlflow_name(key): values[key] for key in values})

    def dataset(
        self, name: str, digest: str, source: Path, context: str, profile: Mapping[str, int]
    ) -> None:
        """A dataset as input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        # The store keeps one profile for a name and digest, and data may be used in part.
        used = fingerprint([digest, profile])
        where = json.dumps({"uri": source.as_posix(), "digest": digest})
        dataset = Dataset(name, used, "local", where, profile=json.dumps(profile))
        tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
        self.client.log_inputs(self.id, [DatasetInput(dataset, [tag])])

    def model(self, directory: Path, best_by: str) -> None:
        """``directory`` as the model that this run made: a pointer, as DVC keeps the files.

        It becomes a version of a registered model with the results of the run, and `BEST` if its
        result ``best_by`` is lower than that of any version before.
        """
        from mlflow.entities import LoggedModelOutput, Metric
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL, MLFLOW_MODEL_VERSIONS

        stage, profile = self._plan.stage, self._tags.get("profile")
        value = {point.key: point.value for point in self._results}[best_by]
        place = {"directory": directory.as_posix(), "digest": files.digest(directory)}
        place |= {key: self._tags[key] for key in ("profile", "config") if key in self._tags}
        params = flatten({key: self._plan.params[key] for key in self._plan.sections})
        model = self.client.create_logged_model(
            self._store.experiment,
            directory.name,
            self.id,
            {**place, MLFLOW_MODEL_IS_EXTERNAL: "true"},
            {mlflow_name(key): stored(setting) for key, setting in params.items()},
            "gpt2",
        )
        model_id = model.model_id
        self.client.finalize_logged_model(model_id, "READY")
        # The very points that the run has: of equal ones the store keeps one.
        of_model = [Metric(p.key, p.value, p.time, 0, model_id) for p in self._results]
        self._store.log_metrics(self.id, of_model)
        self.client.log_outputs(self.id, [LoggedModelOutput(model_id, 0)])

        name = model_name("-".join([EXPERIMENT, stage, *([profile] if profile else [])]))
        with self._store.lock():
            best = self._best(name, best_by)
            version = self.client.create_model_version(
                name,
                model.artifact_location,
                self.id,
                {best_by: value, **place},
                description=f"{directory.as_posix()} as the source run left it; DVC keeps it",
                await_creation_for=0,
                model_id=model_id,
            )
            if value < best:
                self.client.set_registered_model_alias(name, BEST, version.version)
        versions = json.dumps([{"name": name, "version": int(version.version)}])
        self.client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})

    def _best(self, name: str, best_by: str) -> float:
        """The result of the best version of a registered model, which is created if there is none;
        infinity if no version is the best."""
        found = self.client.search_registered_models(f"name = '{name}'")
        if not found:
            self.client.create_registered_model(name, description=f"{BEST}: lowest {best_by}")
        elif version := found[0].aliases.get(BEST):
            return float(self.client.get_model_version(name, version).tags.get(best_by, "inf"))
        return float("inf")

    def end(self, status: str) -> None:
        """Close the run, and its parent unless another stage is at work."""
        self._monitor.finish()
        with self._store.lock():
            self.client.set_terminated(self.id, status)
            if self._parent:
                children = self._store.search(
                    f"tags.`{PARENT_TAG}` = '{self._parent}'", ["attributes.start_time"]
                )
                latest = {run.data.tags.get(STAGE_TAG): run.info.status for run in children}
                whole = pipeline_status(latest.values())
                if whole != "RUNNING":
                    self.client.set_terminated(self._parent, whole)


def pipeline_status(stages: Iterable[str]) -> str:
    """The status of a pipeline by the last status of each of its stages."""
    return next(
        (status for status in ("RUNNING", "FAILED", "KILLED") if status in {*stages}), "FINISHED"
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For imports: what they make stays. To look through it again and again would take a quarter of
    their time, and once more at the end of the process a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _in_parent(stage: str, key: str) -> str:
    """The key of a stage's result in the parent run: MLflow shows what shares a prefix together."""
    return f"{stage}/{key}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
