"""What a stage tells MLflow: one run a stage, all stages of one ``dvc repro`` under one parent run.

Tracking is a witness, never a condition: a thread of its own does the telling. A store that is slow
costs the work nothing, one that fails costs seconds at the end and one warning.
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
from gpt2.tracking.context import flatten
from gpt2.tracking.names import mlflow_name, stored
from gpt2.tracking.store import (
    OpenRun,
    Plan,
    Point,
    failures,
    first_line,
    is_refusal,
    open_run,
    own_store,
    probe,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NullTracker", "Tracker", "flatten", "track"]

FLUSH_SECONDS = 5.0
"""How long a number waits at most before it is sent."""
ANSWER_SECONDS = 5.0
"""How long the end of a stage waits for one answer of the store."""
OPEN_SECONDS = 60.0
"""How long the store may take to open: MLflow's import and its tables take long on a busy machine.
Since the work began, so that only the end of a short stage waits for it."""
CLOSE_SECONDS = 60.0
"""How long the end waits in all."""

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a stage reports to. What MLflow refuses in a name is spelled out (`mlflow_name`), and a
    tag of the new name holds the name as it was."""

    def begin(self, resume: Path | None = None) -> None:
        """The input is good and the work begins: from now on even a failure is a run.

        ``resume`` is where the work in progress lies: if a run that worked there was stopped, this
        one is the same, and what it tells again is left out. Else the first number begins.
        """

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts that are no parameters."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Points of curves at ``step``; without a step: results, which the parent run shows too, as
        ``<stage>/<metric>``.
        """

    def restored(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Results of stages before this one, for the parent run: DVC restores without running."""

    def text(self, text: str, name: str) -> None:
        """A text file."""

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """A table with the keys of the first row as columns; ``name`` ends in ``.json``."""

    def figure(self, figure: "Figure", name: str) -> None:
        """A matplotlib figure; the ending of ``name`` says the format."""

    def artifact(self, path: Path) -> None:
        """A copy of a file or directory."""

    def dataset(
        self, name: str, *, digest: str, source: Path, context: str, **profile: int
    ) -> None:
        """Data that the stage reads: what for (``training``), and how much (``rows=...``)."""

    def model(self, directory: Path, best_by: str) -> None:
        """The model directory that the stage wrote, after its results; no copy is made.

        ``best_by`` is the result that says which model of a stage and profile is best: the lowest.
        """


class NullTracker:
    """Tells nobody: for tests, and for the use of `gpt2` as a library."""

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


class MlflowTracker:
    """One MLflow run. Its thread opens it when the work begins, and sends numbers in batches."""

    def __init__(self, plan: Plan, uri: str, root: Path) -> None:
        self._plan, self._uri, self._root = plan, uri, root
        self._messages: SimpleQueue[Callable[[OpenRun], None] | None] = SimpleQueue()
        self._points: deque[Point] = deque()
        self._thread: Thread | None = None
        self._due: float | None = None
        """Until when the store has to answer, by `time.monotonic`."""
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
        self._tell(lambda run: run.restored(stages))

    def text(self, text: str, name: str) -> None:
        self._tell(lambda run: run.client.log_text(run.id, stored(text), mlflow_name(name)))

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        self._tell(lambda run: run.client.log_table(run.id, columns, mlflow_name(name)))

    def figure(self, figure: "Figure", name: str) -> None:
        self._tell(lambda run: run.client.log_figure(run.id, figure, mlflow_name(name)))

    def artifact(self, path: Path) -> None:
        self._tell(lambda run: run.client.log_artifact(run.id, str(path)))

    def dataset(
        self, name: str, *, digest: str, source: Path, context: str, **profile: int
    ) -> None:
        self._messages.put(lambda run: run.dataset(name, digest, source, context, profile))

    def model(self, directory: Path, best_by: str) -> None:
        self._tell(lambda run: run.model(directory, best_by))

    @property
    def begun(self) -> bool:
        return self._thread is not None

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; wait until the store has got everything."""
        self._tell(lambda run: run.end(status))
        self._messages.put(None)
        thread, closing = self._thread, time.monotonic()
        while thread and thread.is_alive():
            thread.join(0.05)
            due, now = self._due, time.monotonic()
            silent = due is not None and now > max(due, closing + ANSWER_SECONDS)
            if silent or now - closing > CLOSE_SECONDS:
                self._fail(TimeoutError("the store does not answer"))
                return

    def _tell(self, message: Callable[[OpenRun], None]) -> None:
        self._messages.put(message)
        self.begin()

    def _work(self, resume: Path | None) -> None:
        """Send what is told until it is closed; the first failure ends tracking for this stage."""
        self._due = time.monotonic() + OPEN_SECONDS
        try:
            try:
                probe(self._uri, self._root)
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
                return
            run = open_run(self._plan, self._uri, self._root, resume)
            self._due = None
            while True:
                try:
                    message = self._messages.get(timeout=FLUSH_SECONDS)
                except Empty:
                    self._send(run)
                    continue
                if message is None:
                    return
                self._send(run, message)
        except failures() as error:
            self._fail(error)

    def _send(self, run: OpenRun, message: Callable[[OpenRun], None] = lambda run: None) -> None:
        self._due = time.monotonic() + ANSWER_SECONDS
        run.log([self._points.popleft() for _ in range(len(self._points))])
        try:
            message(run)
        except failures() as error:
            if not is_refusal(error):
                raise
            _log.warning("MLflow does not take all: %s. The rest goes on", first_line(error))
        self._due = None

    def _fail(self, error: Exception) -> None:
        if not self._off:
            _log.warning(
                "tracking is off: %s. Metrics stay in metrics/ and plots/", first_line(error)
            )
        self._off = True
        self._points.clear()


@contextmanager
def track(
    stage: str,
    root: Path,
    params: Mapping[str, object],
    sections: Sequence[str] = (),
    highlight: str | None = None,
) -> Iterator[Tracker]:
    """The tracker of a stage, closed with the status that fits how the body ended.

    Args:
        stage: its name in dvc.yaml.
        root: the repository, which holds the store: ``mlflow.db`` and ``mlruns/``. The environment
            variable ``MLFLOW_TRACKING_URI`` names another one, or ``off``.
        params: all parameters, for the parent run.
        sections: those of them that are the stage's own.
        highlight: dotted key of the parameter that the run's name shows.
    """
    root = root.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store(root)
    if uri == "off":
        yield NullTracker()
        return
    tracker = MlflowTracker(Plan(stage, params, sections, highlight, time.time()), uri, root)
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
