"""The tracker that a stage logs to, and its implementation with MLflow.

Tracking never stops the work. A thread of its own sends everything: a slow store costs the stage no
time, and one that fails costs a few seconds at the end and one warning.
"""

import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from gpt2.core.errors import UserError
from gpt2.tracking.active_run import ActiveRun, RunSpec
from gpt2.tracking.names import encodable, mlflow_name
from gpt2.tracking.open_run import open_run
from gpt2.tracking.store import Point, failures, first_line, is_rejection, own_store, probe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUSH_SECONDS = 5.0
"""Longest time that a metric waits before it is sent."""
ANSWER_SECONDS = 5.0
"""How long the end of a stage waits for one answer of the store."""
OPEN_SECONDS = 60.0
"""How long the store may take to open, from the start of the work. On a busy machine, importing
MLflow and creating its tables take long; only the end of a short stage waits for them."""
CLOSE_SECONDS = 60.0
"""How long the end of a stage waits for the store in total."""

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a stage logs to.

    Characters that MLflow rejects in a name are spelled out (`mlflow_name`); a tag with the new
    name holds the original one.
    """

    def begin(self, resume: Path | None = None) -> None:
        """Start the run. Call it when the input is valid and the work begins.

        From now on an error gives a failed run; an error before gives none. Without this call, the
        run starts with the first metric.

        Args:
            resume: directory of the work in progress. If an earlier run with this directory was
                interrupted, that run is continued, and steps that it already has are skipped.
        """

    def tags(self, values: Mapping[str, str]) -> None:
        """Log facts that are not parameters."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log points of curves at ``step``, or results without a step.

        Results also appear in the parent run, as ``<stage>/<metric>``.
        """

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Log results of earlier stages, which DVC may restore without a run, to the parent run."""

    def text(self, text: str, name: str) -> None:
        """Log a text file."""

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Log a table with the keys of the first row as columns; ``name`` ends in ``.json``."""

    def figure(self, figure: "Figure", name: str) -> None:
        """Log a matplotlib figure; the extension of ``name`` determines the format."""

    def artifact(self, path: Path) -> None:
        """Log a copy of a file or directory."""

    def dataset(
        self, name: str, *, digest: str, source: Path, context: str, **profile: int
    ) -> None:
        """Log data that the stage reads: its use (``training``) and its size (``rows=...``)."""

    def model(self, directory: Path, best_by: str) -> None:
        """Log a reference to the model directory that the stage has written, after its results.

        ``best_by`` is the result that ranks the models of a stage and profile: the lowest is best.
        """


class NullTracker:
    """Logs nothing: for tests, and for using `gpt2` as a library."""

    def begin(self, resume: Path | None = None) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None: ...

    def text(self, text: str, name: str) -> None: ...

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None: ...

    def figure(self, figure: "Figure", name: str) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def dataset(
        self, name: str, *, digest: str, source: Path, context: str, **profile: int
    ) -> None: ...

    def model(self, directory: Path, best_by: str) -> None: ...


@contextmanager
def track(
    stage: str,
    root: Path,
    params: Mapping[str, object],
    sections: Sequence[str] = (),
    highlight: str | None = None,
) -> Iterator[Tracker]:
    """Yield the tracker of a stage, and close its run with the status that the body ends with.

    Args:
        stage: its name in dvc.yaml.
        root: the repository, which holds the store: ``mlflow.db`` and ``mlruns/``. The environment
            variable ``MLFLOW_TRACKING_URI`` selects another store; ``off`` disables tracking.
        params: all parameters, for the parent run.
        sections: the sections of them that the stage uses.
        highlight: dotted key of the parameter that the name of the run shows.
    """
    root = root.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store(root)
    if uri == "off":
        yield NullTracker()
        return
    tracker = MlflowTracker(RunSpec(stage, params, sections, highlight, time.time()), uri, root)
    status: str | None = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except UserError:
        # Bad input that was found before the work began makes no run, and costs no wait.
        status = "FAILED" if tracker.begun else None
        raise
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        if status:
            tracker.close(status)


class MlflowTracker:
    """One MLflow run. A thread opens it when the work begins, and sends metrics in batches."""

    def __init__(self, spec: RunSpec, uri: str, root: Path) -> None:
        self._spec, self._uri, self._root = spec, uri, root
        self._messages: SimpleQueue[Callable[[ActiveRun], None] | None] = SimpleQueue()
        self._points: deque[Point] = deque()
        self._thread: Thread | None = None
        self._deadline: float | None = None
        """When the store has to have answered, by `time.monotonic`; None if nothing is pending."""
        self._off = False

    def begin(self, resume: Path | None = None) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, args=[resume], name="tracker", daemon=True)
            self._thread.start()

    def tags(self, values: Mapping[str, str]) -> None:
        self._messages.put(lambda run: run.tags(values))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        if not self._off:
            self._points.extend(
                Point(key, float(value), now, step) for key, value in values.items()
            )
        self.begin()

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        self._send(lambda run: run.restored(stages))

    def text(self, text: str, name: str) -> None:
        self._send(lambda run: run.client.log_text(run.id, encodable(text), mlflow_name(name)))

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        self._send(lambda run: run.client.log_table(run.id, columns, mlflow_name(name)))

    def figure(self, figure: "Figure", name: str) -> None:
        self._send(lambda run: run.client.log_figure(run.id, figure, mlflow_name(name)))

    def artifact(self, path: Path) -> None:
        self._send(lambda run: run.client.log_artifact(run.id, str(path)))

    def dataset(
        self, name: str, *, digest: str, source: Path, context: str, **profile: int
    ) -> None:
        self._messages.put(lambda run: run.dataset(name, digest, source, context, profile))

    def model(self, directory: Path, best_by: str) -> None:
        self._send(lambda run: run.model(directory, best_by))

    @property
    def begun(self) -> bool:
        return self._thread is not None

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; wait until everything has been sent."""
        self._send(lambda run: run.end(status))
        self._messages.put(None)
        thread, closing = self._thread, time.monotonic()
        while thread and thread.is_alive():
            thread.join(0.05)
            deadline, now = self._deadline, time.monotonic()
            silent = deadline is not None and now > max(deadline, closing + ANSWER_SECONDS)
            if silent or now - closing > CLOSE_SECONDS:
                self._fail(TimeoutError("the store does not answer"))
                return

    def _send(self, message: Callable[[ActiveRun], None]) -> None:
        """Queue a message for the thread, and start the run if it has not begun."""
        self._messages.put(message)
        self.begin()

    def _work(self, resume: Path | None) -> None:
        """Open the run and send messages until `close`; a failure turns off tracking."""
        self._deadline = time.monotonic() + OPEN_SECONDS
        try:
            try:
                probe(self._uri, self._root)
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
                return
            run = open_run(self._spec, self._uri, self._root, resume)
            self._deadline = None
            while True:
                try:
                    message = self._messages.get(timeout=FLUSH_SECONDS)
                except Empty:
                    self._deliver(run)
                    continue
                if message is None:
                    return
                self._deliver(run, message)
        except failures() as error:
            self._fail(error)

    def _deliver(
        self, run: ActiveRun, message: Callable[[ActiveRun], None] = lambda run: None
    ) -> None:
        """Send the metrics so far, then the message."""
        self._deadline = time.monotonic() + ANSWER_SECONDS
        run.log([self._points.popleft() for _ in range(len(self._points))])
        try:
            message(run)
        except failures() as error:
            if not is_rejection(error):
                raise
            _log.warning("MLflow rejects a part: %s. The rest is logged", first_line(error))
        self._deadline = None

    def _fail(self, error: Exception) -> None:
        if not self._off:
            _log.warning(
                "tracking is off: %s. Metrics are still in metrics/ and plots/", first_line(error)
            )
        self._off = True
        self._points.clear()
