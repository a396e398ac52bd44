"""A store that is absent, locked, full, hanging or broken: one warning, and the work continues."""

import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt2.core.locks import locked
from gpt2.tracking import tracker as tracking
from gpt2.tracking.tracker import track
from tests.gpt2.tracking.runs import STAGE, assert_training_survives, environment


def test_server_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    assert_training_survives(tmp_path, caplog)


def test_server_that_accepts_and_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert_training_survives(tmp_path, caplog)


@pytest.fixture
def broken_server() -> Iterator[str]:
    """A server whose front page works, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_server_that_is_no_mlflow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken_server: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken_server)
    assert_training_survives(tmp_path, caplog)


def test_database_that_somebody_locks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    assert_training_survives(tmp_path, caplog)
    database.close()


def test_database_that_somebody_locks_in_mid_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gpt2"), track("pretrain", tmp_path, {}) as tracker:
        tracker.text("sample", "sample.txt")
        while not list(tmp_path.glob("mlruns/*/artifacts/sample.txt")):
            time.sleep(0.05)
        database = sqlite3.connect(tmp_path / "mlflow.db")
        database.execute("BEGIN EXCLUSIVE")
        tracker.metrics({"loss": 1.0}, 1)
        ended = time.monotonic()
    assert time.monotonic() - ended < 6
    database.close()
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.tracker")
    assert record.getMessage().startswith("tracking is off: the store does not answer")


def a_directory(root: Path) -> None:
    (root / "mlflow.db").mkdir()


def a_file_where_artifacts_go(root: Path) -> None:
    (root / "mlruns").write_text("")


def a_dead_link(root: Path) -> None:
    (root / "mlflow.db").symlink_to("/proc/none/mlflow.db")


@pytest.mark.parametrize("spoil", [a_directory, a_file_where_artifacts_go, a_dead_link])
def test_store_that_cannot_be_written(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
) -> None:
    spoil(tmp_path)
    assert_training_survives(tmp_path, caplog, seconds=60)


FULL = """
import resource
def fill(size):
    "From now on no file can grow beyond this: as on a full disk, writing fails."
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
if size := {size}:
    fill(size)
else:
    tracker.text("sample", "sample.txt")
    while not list(Path(root).glob("mlruns/*/artifacts/sample.txt")):
        time.sleep(0.05)
    fill(Path(root, "mlflow.db").stat().st_size)
Path(root, "local.txt").write_text("whole")
for step in range(20_000):
    tracker.metrics({{"loss": 1.0}}, step)
Path(root, "local.txt").write_text("whole again")
"""


@pytest.mark.faults
@pytest.mark.parametrize("size", [20_000, None])
def test_disk_that_is_full_from_the_start_or_in_mid_run(tmp_path: Path, size: int | None) -> None:
    code = "import logging; logging.basicConfig()\n" + FULL.format(size=size)
    process = subprocess.run(
        [sys.executable, "-c", STAGE, "one", str(tmp_path), code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("tracking is off: ") == 1
    assert "Traceback" not in process.stderr
    assert (tmp_path / "local.txt").read_text() == "whole again"


@pytest.mark.faults
def test_store_that_is_deleted_in_mid_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gpt2"), track("pretrain", tmp_path, {}) as tracker:
        tracker.text("sample", "sample.txt")
        while not list(tmp_path.glob("mlruns/*/artifacts/sample.txt")):
            time.sleep(0.05)
        for path in tmp_path.glob("mlflow.db*"):
            path.unlink()
        tracker.metrics({"loss": 1.0}, 1)
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.tracker")
    assert record.getMessage().startswith("tracking is off: ")


@pytest.mark.faults
def test_lock_that_somebody_keeps_costs_the_end_of_a_long_stage_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "OPEN_SECONDS", 0.0)  # as after the first minute of a stage
    with locked(tmp_path / "mlflow.db.lock"), caplog.at_level(logging.WARNING, "gpt2"):
        with track("pretrain", tmp_path, {}) as tracker:
            tracker.metrics({"loss": 1.0}, 1)
            ended = time.monotonic()
        assert time.monotonic() - ended < tracking.CLOSE_SECONDS / 2
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.tracker")
    assert record.getMessage().startswith("tracking is off: the store does not answer")


NONSENSE = [b"<html>", b"{}", b"[]", b"3", b'{"experiment": 5}', b'{"experiment": {"name": []}}']


@pytest.mark.parametrize("answer", NONSENSE)
def test_server_that_answers_nonsense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        try:
            assert_training_survives(tmp_path, caplog, seconds=60)
        finally:
            server.shutdown()


def test_database_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_text("this is a text, and not a database\n" * 100)
    assert_training_survives(tmp_path, caplog)
