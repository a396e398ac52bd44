"""An MLflow store: its address, its settings, its experiment, and how runs are written to it.

Every call to the store may raise one of `failures`.
"""

import gc
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from gpt2.core.locks import locked
from gpt2.tracking.context import flatten
from gpt2.tracking.names import encodable, mlflow_name, renamed

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag

EXPERIMENT = "gpt2-from-scratch"
EXPERIMENT_TAGS = {
    # MLflow shows the pages for model training instead of those for agents.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Each row is one execution of the pipeline, with all its parameters and results; "
        "below it are its stages."
    ),
}
STORE = "mlflow.db"
ARTIFACTS = "mlruns"
BATCHES = {"metrics": 1000, "params": 100, "tags": 100}
"""The most entities that one `log_batch` of MLflow accepts."""
PROBE_SECONDS = 3
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The tracker reports errors itself, once.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Wait for a server for half a minute; MLflow's default is four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment variables for MLflow, unless the user has set them."""

_log = logging.getLogger(__name__)


class Point(NamedTuple):
    """A metric value: a point of a curve, or a result if it has no step."""

    key: str
    value: float
    time: int
    """In milliseconds since 1970."""
    step: int | None


def own_store(root: Path) -> str:
    """The URI of the repository's own store; its path may contain any characters.

    The path is percent-encoded, because SQLAlchemy decodes it and takes text after a ``?`` for
    options. With the name of the driver, MLflow leaves the URI to SQLAlchemy; without it, MLflow
    would create a directory with the encoded name.
    """
    return f"sqlite+pysqlite:///{quote(os.fsencode(root / STORE))}"


def probe(uri: str, root: Path) -> None:
    """Check that the store answers within `PROBE_SECONDS`; raise one of `failures` if not."""
    if uri.startswith(("http://", "https://")):
        import requests

        # A request for which the server has to query its database.
        endpoint = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
        requests.get(endpoint, {"experiment_name": EXPERIMENT}, timeout=PROBE_SECONDS)
    elif uri == own_store(root):
        if str(root) != encodable(root):  # bytes that are not valid in the locale's encoding
            raise OSError(
                f"{encodable(root)} has characters unknown to this locale. Set LC_ALL=C.UTF-8"
            )
        with closing(sqlite3.connect(root / STORE, timeout=PROBE_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")


class DeletedExperimentError(Exception):
    """The experiment is deleted. MLflow reserves its name until it is restored or purged."""

    def __init__(self, name: str, experiment: str, uri: str, root: Path) -> None:
        where = f"MLFLOW_TRACKING_URI=sqlite:///{STORE} " if uri == own_store(root) else ""
        super().__init__(
            f"the experiment {name} is deleted. Restore it: "
            f"{where}mlflow experiments restore --experiment-id {experiment}, "
            "or set MLFLOW_EXPERIMENT_NAME to another name"
        )


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of a failing store. Those of requests are OSErrors."""
    from alembic.util.exc import CommandError
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    own = (DeletedExperimentError, sqlite3.Error, OSError)
    return (MlflowException, ParseError, SQLAlchemyError, CommandError, *own)


def is_rejection(error: Exception) -> bool:
    """Whether the store works but rejects this one value."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip(" .")


def experiment_in_use(uri: str, root: Path) -> str:
    """The id of the experiment that stages log to; empty if it does not exist yet."""
    from mlflow.tracking import MlflowClient

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = MlflowClient(uri).get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise DeletedExperimentError(name, found.experiment_id, uri, root)
    return str(found.experiment_id) if found else ""


class Store:
    """The experiment in an MLflow store; it is created if it does not exist."""

    def __init__(self, uri: str, root: Path) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        self._lock = root / f"{STORE}.lock"
        with _no_garbage_collection():
            from mlflow.tracking import MlflowClient

            # Two processes that create the tables or the experiment at the same time would fail.
            with self.lock():
                self.client = MlflowClient(uri)
                self.experiment = self._find_experiment(root)

    def lock(self) -> AbstractContextManager[None]:
        """Keep other stages of this repository from finding or creating the same runs."""
        return locked(self._lock)

    def _find_experiment(self, root: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if found := experiment_in_use(self.uri, root):
            return found
        # Absolute, as a stage may run in a copy of the repository. A server has its own location.
        artifacts = (root / ARTIFACTS).as_uri() if self.uri.startswith("sqlite") else None
        return self.client.create_experiment(name, artifacts, EXPERIMENT_TAGS)

    def search(self, query: str, order: Sequence[str] = ()) -> "list[Run]":
        """The runs of the experiment that match an MLflow filter."""
        return list(self.client.search_runs([self.experiment], query, order_by=list(order)))

    def create(
        self, name: str, started: float, tags: Mapping[str, str], params: Mapping[str, object]
    ) -> "Run":
        """Create a run with all its parameters. ``started`` is in seconds since 1970."""
        from mlflow.entities import Param

        valid_tags = {key: encodable(value) for key, value in tags.items()}
        run = self.client.create_run(
            self.experiment, milliseconds(started), valid_tags, encodable(name)
        )
        if not run.info.run_id:
            raise ConnectionError("the store answers, but not as MLflow does")
        flat = flatten(params)
        entities = [Param(mlflow_name(key), encodable(value)) for key, value in flat.items()]
        self._log(run.info.run_id, "params", entities)
        self.set_tags(run.info.run_id, renamed(flat))
        return run

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log(run_id, "tags", [RunTag(key, encodable(value)) for key, value in tags.items()])

    def log_metrics(self, run_id: str, metrics: "Sequence[Metric]") -> None:
        self._log(run_id, "metrics", metrics)

    def _log(self, run_id: str, kind: str, entities: "Sequence[Metric | Param | RunTag]") -> None:
        """Log in batches. Entities that the store rejects are reported and skipped."""
        from mlflow.exceptions import MlflowException

        size = BATCHES[kind]
        for start in range(0, len(entities), size):
            batch = entities[start : start + size]
            try:
                self._log_batch(run_id, kind, batch)
            except MlflowException as error:
                if not is_rejection(error):
                    raise
                self._log_singly(run_id, kind, batch)

    def _log_singly(
        self, run_id: str, kind: str, batch: "Sequence[Metric | Param | RunTag]"
    ) -> None:
        from mlflow.exceptions import MlflowException

        rejected = []
        for entity in batch:
            try:
                self._log_batch(run_id, kind, [entity])
            except MlflowException as error:
                rejected.append(f"{entity.key}: {first_line(error)}")
                # If all are rejected, their names are not the reason.
                if not is_rejection(error) or len(rejected) == len(batch) > 1:
                    raise
        for reason in rejected:
            _log.warning("MLflow rejects %s. The rest is logged", reason)

    def _log_batch(
        self, run_id: str, kind: str, batch: "Sequence[Metric | Param | RunTag]"
    ) -> None:
        entities: dict[str, Any] = {kind: batch}
        self.client.log_batch(run_id, **entities)


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection for imports: the objects that they create stay.

    Scanning them again and again would take a quarter of the import time, and one more second at
    the end of the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
