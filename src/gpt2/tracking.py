"""What a stage tells MLflow: one run a stage, all stages of one ``dvc repro`` under one parent run.

Tracking is a witness, never a condition: a store that fails costs seconds and one warning.
"""

import logging
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gpt2.errors import UserError
from gpt2.locks import locked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

EXPERIMENT = "gpt2-from-scratch"
STORE = "mlflow.db"
ARTIFACTS = "mlruns"
INVOCATION_TAG = "gpt2.invocation"
"""Tag of a parent run: which call of dvc it stands for."""
FLUSH_SECONDS = 5.0
FLUSH_POINTS = 500
# Limits of MLflow for one `log_batch`.
BATCH_METRICS = 1000
BATCH_PARAMS = 100
PROBE_SECONDS = 3
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What goes wrong is said here, once.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that goes away in mid-run: MLflow would try for 246 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's environment variables, where the user has not set them."""

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a stage reports to. Names may hold letters, digits and ``_-./ :``."""

    def params(self, values: Mapping[str, object]) -> None:
        """Settings, logged once; the keys of nested mappings are joined by dots."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Points of curves at ``step``; without a step: results, which the parent run shows too."""

    def text(self, text: str, name: str) -> None:
        """A text file."""

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """A table with the keys of the first row as columns; ``name`` ends in ``.json``."""

    def figure(self, figure: "Figure", name: str) -> None:
        """A matplotlib figure; the ending of ``name`` says the format."""

    def artifact(self, path: Path) -> None:
        """A copy of a file or directory."""


class NullTracker:
    """Tells nobody: for tests, and for the use of `gpt2` as a library."""

    def params(self, values: Mapping[str, object]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def text(self, text: str, name: str) -> None: ...

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None: ...

    def figure(self, figure: "Figure", name: str) -> None: ...

    def artifact(self, path: Path) -> None: ...


class MlflowTracker:
    """One MLflow run, opened when there is something to send: MLflow's import takes seconds.

    Params and metrics wait in a buffer until `FLUSH_SECONDS` are over or `FLUSH_POINTS` are there.
    """

    def __init__(self, stage: str, uri: str, root: Path) -> None:
        self._stage = stage
        self._uri = uri
        self._root = root
        self._started = time.time()
        self._flushed = time.monotonic()
        self._params: dict[str, object] = {}
        self._points: list[tuple[str, float, int, int | None]] = []
        self._run: _OpenRun | None = None
        self._off = False

    def params(self, values: Mapping[str, object]) -> None:
        self._params |= flatten(values)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        now = _milliseconds(time.time())
        self._points += [(key, float(value), now, step) for key, value in values.items()]
        waited = time.monotonic() - self._flushed
        if waited >= FLUSH_SECONDS or len(self._points) >= FLUSH_POINTS:
            self._send(lambda run: None)

    def text(self, text: str, name: str) -> None:
        self._send(lambda run: run.client.log_text(run.id, text, name))

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        self._send(lambda run: run.client.log_table(run.id, columns, name))

    def figure(self, figure: "Figure", name: str) -> None:
        self._send(lambda run: run.client.log_figure(run.id, figure, name))

    def artifact(self, path: Path) -> None:
        self._send(lambda run: run.client.log_artifact(run.id, str(path)))

    @property
    def begun(self) -> bool:
        """Whether there has been anything to tell beside the params."""
        return self._run is not None or bool(self._points)

    def close(self, status: str) -> None:
        """Send what waits and end the run as FINISHED, FAILED or KILLED, its parent too."""
        self._send(lambda run: run.end(status))

    def _send(self, action: "Callable[[_OpenRun], None]") -> None:
        """Send the buffer, then do ``action``; the first failure ends tracking for this stage."""
        if not self._off:
            try:
                if self._run is None:
                    self._run = _open_run(self._stage, self._uri, self._root, self._started)
                self._run.log(self._params, self._points)
                action(self._run)
            except _failures() as error:
                self._off = True
                _warn(error)
        self._params, self._points = {}, []
        self._flushed = time.monotonic()


@contextmanager
def track(stage: str, root: Path, params: Mapping[str, object]) -> Iterator[Tracker]:
    """The tracker of a stage, closed with the status that fits how the body ended.

    ``root`` is the repository, which holds the store: ``mlflow.db`` and ``mlruns/``. The
    environment variable ``MLFLOW_TRACKING_URI`` names another one, or ``off``.
    """
    root = root.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / STORE}"
    if not _usable(uri, root):
        yield NullTracker()
        return
    tracker = MlflowTracker(stage, uri, root)
    tracker.params(params)
    status: str | None = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except UserError:
        # Bad input that was found before the work began is no run, and its message comes at once.
        status = "FAILED" if tracker.begun else None
        raise
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        if status:
            tracker.close(status)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class _OpenRun:
    """A run in the store, and the parent run that it stands under (none outside of dvc)."""

    def __init__(self, client: "MlflowClient", stage: str, run_id: str, parent: str | None) -> None:
        self.client = client
        self.id = run_id
        self._stage = stage
        self._parent = parent
        self._parent_params = set(client.get_run(parent).data.params) if parent else set()

    def log(
        self,
        params: Mapping[str, object],
        points: Sequence[tuple[str, float, int, int | None]],
    ) -> None:
        from mlflow.entities import Metric, Param

        own = [Metric(key, value, at, step or 0) for key, value, at, step in points]
        self._batches(self.id, own, [Param(key, str(value)) for key, value in params.items()])
        if self._parent:
            results = [
                Metric(f"{self._stage}.{key}", value, at, 0)
                for key, value, at, step in points
                if step is None
            ]
            # Params are immutable in MLflow, and stages share some: the first to tell is enough.
            new = {key: value for key, value in params.items() if key not in self._parent_params}
            self._batches(self._parent, results, [Param(key, str(new[key])) for key in new])
            self._parent_params |= set(new)

    def end(self, status: str) -> None:
        for run_id in filter(None, (self.id, self._parent)):
            self.client.set_terminated(run_id, status)

    def _batches(self, run_id: str, metrics: "list[Metric]", params: "list[Param]") -> None:
        for start in range(0, len(metrics), BATCH_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])
        for start in range(0, len(params), BATCH_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + BATCH_PARAMS])


def _usable(uri: str, root: Path) -> bool:
    """Whether the store answers within `PROBE_SECONDS`: MLflow itself would try for minutes."""
    if uri == "off":
        return False
    try:
        if uri.startswith(("http://", "https://")):
            import requests

            requests.get(uri, timeout=PROBE_SECONDS)
        elif uri == f"sqlite:///{root / STORE}":
            with closing(sqlite3.connect(root / STORE, timeout=PROBE_SECONDS)) as database:
                database.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        _warn(error)
        return False
    return True


def _open_run(stage: str, uri: str, root: Path, started: float) -> _OpenRun:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    # Two processes that make the same tables, experiment or parent at once would fail or make two.
    with locked(root / f"{STORE}.lock"):
        client = MlflowClient(uri)
        experiment = _experiment(client, uri, root)
        parent = _parent(client, experiment, _milliseconds(started))
    run = client.create_run(
        experiment,
        start_time=_milliseconds(started),
        tags={MLFLOW_PARENT_RUN_ID: parent} if parent else None,
        run_name=stage,
    )
    return _OpenRun(client, stage, run.info.run_id, parent)


def _experiment(client: "MlflowClient", uri: str, root: Path) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    # Absolute, as a stage may run in a copy of the repository. A server has a place of its own.
    artifacts = (root / ARTIFACTS).as_uri() if uri.startswith("sqlite:") else None
    return client.create_experiment(name, artifact_location=artifacts)


def _parent(client: "MlflowClient", experiment: str, started: int) -> str | None:
    """The parent run of this call of dvc, found or created; None outside of dvc."""
    invocation = _invocation()
    if invocation is None:
        return None
    key, name = invocation
    found = client.search_runs([experiment], f"tags.`{INVOCATION_TAG}` = '{key}'", max_results=1)
    run = next(iter(found), None)
    run = run or client.create_run(experiment, started, {INVOCATION_TAG: key}, name)
    parent: str = run.info.run_id
    client.update_run(parent, status="RUNNING")
    return parent


def _invocation() -> tuple[str, str] | None:
    """A key that all stages of one dvc experiment or ``dvc repro`` share, and a name for people."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return f"{experiment} {os.environ.get('DVC_EXP_BASELINE_REV', '')}", experiment
    import psutil

    for process in psutil.Process().parents():
        try:
            command, started = process.cmdline(), process.create_time()
        except psutil.Error:
            continue
        # `dvc repro` is `python .venv/bin/dvc repro` to the system, or `python -m dvc repro`.
        if any(Path(word).name == "dvc" for word in command[:3]):
            key = f"{socket.gethostname()} {process.pid} {started}"
            return key, f"dvc {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))}"
    return None


def _failures() -> tuple[type[Exception], ...]:
    """What a store that fails may raise (those of requests are OSErrors)."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError)


def _warn(error: Exception) -> None:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    _log.warning("tracking is off: %s. Metrics stay in metrics/ and plots/", reason.strip(" ."))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
