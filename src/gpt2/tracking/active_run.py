"""A run that is open in an MLflow store, and what is logged to it and to its parent run."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.core import files
from gpt2.tracking.context import fingerprint, flatten
from gpt2.tracking.names import mlflow_name, renamed
from gpt2.tracking.registry import log_model, register
from gpt2.tracking.store import Point, Store, milliseconds

if TYPE_CHECKING:
    from mlflow.entities import Run

STAGE_TAG = "stage"
PARENT_TAG = "mlflow.parentRunId"
SYSTEM_SECONDS = 10
"""Interval of the system metrics: CPU, memory, disk, network and GPU."""


@dataclass(frozen=True)
class RunSpec:
    """What is known about a run before it is opened."""

    stage: str
    params: Mapping[str, object]
    """All sections; they are the parameters of the parent run."""
    sections: Sequence[str]
    """The sections that are the parameters of the stage's run."""
    highlight: str | None
    """Dotted key of the parameter that the name of the run shows."""
    started: float
    """In seconds since 1970."""

    def own_params(self) -> dict[str, object]:
        """The parameters of the stage's run."""
        return {key: self.params[key] for key in self.sections}


class ActiveRun:
    """An open run, with its parent run if dvc has started the stage."""

    def __init__(
        self,
        store: Store,
        run: "Run",
        spec: RunSpec,
        last_steps: Mapping[str, int] | None = None,
    ) -> None:
        """``last_steps`` is the last step of each metric if the run is continued."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.client = store.client
        self.id: str = run.info.run_id
        self._store = store
        self._spec = spec
        self._tags: dict[str, str] = run.data.tags
        self._parent = self._tags.get(PARENT_TAG)
        self._last_steps = last_steps or {}
        self._results: list[Point] = []
        monitor: Any = SystemMetricsMonitor  # has no types
        self._monitor = monitor(
            self.id,
            SYSTEM_SECONDS,
            resume_logging=last_steps is not None,
            tracking_uri=store.uri,
        )
        self._monitor.start()

    def log(self, points: Sequence[Point]) -> None:
        """Log results and points of curves; skip steps that the run has from before a crash."""
        from mlflow.entities import Metric

        named = [point._replace(key=mlflow_name(point.key)) for point in points]
        new = [p for p in named if p.step is None or p.step > self._last_steps.get(p.key, -1)]
        results = [point for point in new if point.step is None]
        self._results += results
        self._store.log_metrics(self.id, [Metric(p.key, p.value, p.time, p.step or 0) for p in new])
        self._store.set_tags(self.id, renamed(point.key for point in points))
        if self._parent:
            stage = self._spec.stage
            of_stage = [Metric(_in_parent(stage, p.key), p.value, p.time, 0) for p in results]
            self._store.log_metrics(self._parent, of_stage)

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Log results of other stages to the parent run, except those that it already has."""
        from mlflow.entities import Metric

        if self._parent:
            known, now = self.client.get_run(self._parent).data.metrics, milliseconds(time.time())
            results = {
                _in_parent(stage, mlflow_name(key)): value
                for stage, values in stages.items()
                for key, value in values.items()
            }
            new = {key: value for key, value in results.items() if known.get(key) != value}
            self._store.log_metrics(self._parent, [Metric(key, new[key], now, 0) for key in new])

    def tags(self, values: Mapping[str, str]) -> None:
        """Add tags."""
        self._store.set_tags(self.id, {mlflow_name(key): values[key] for key in values})

    def dataset(
        self, name: str, digest: str, source: Path, context: str, profile: Mapping[str, int]
    ) -> None:
        """Log a dataset as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        # The store keeps one profile per name and digest, but a run may use a part of the data.
        digest_in_use = fingerprint([digest, profile])
        where = json.dumps({"uri": source.as_posix(), "digest": digest})
        dataset = Dataset(name, digest_in_use, "local", where, profile=json.dumps(profile))
        tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
        self.client.log_inputs(self.id, [DatasetInput(dataset, [tag])])

    def model(self, directory: Path, best_by: str) -> None:
        """Log ``directory`` as the model of this run, and register a version of it."""
        stage, profile = self._spec.stage, self._tags.get("profile")
        result = {point.key: point.value for point in self._results}[best_by]
        facts = {"directory": directory.as_posix(), "digest": files.digest(directory)}
        facts |= {key: self._tags[key] for key in ("profile", "config") if key in self._tags}
        params = flatten(self._spec.own_params())
        model = log_model(self._store, self.id, directory.name, facts, params, self._results)
        name = f"{stage}-{profile}" if profile else stage
        register(self._store, model, name, facts, best_by, result)

    def end(self, status: str) -> None:
        """Close the run, and its parent run unless another stage is still running."""
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
    """The status of a pipeline, given the latest status of each of its stages."""
    return next(
        (status for status in ("RUNNING", "FAILED", "KILLED") if status in {*stages}), "FINISHED"
    )


def _in_parent(stage: str, key: str) -> str:
    """The key of a stage's result in the parent run. MLflow groups keys with a common prefix."""
    return f"{stage}/{key}"
