import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import gpt2
from gpt2.errors import UserError
from gpt2.tracking import EXPERIMENT, NullTracker, flatten, track

PYTHONPATH = str(Path(gpt2.__file__).parents[1])
STAGE = """
import sys
from pathlib import Path
from gpt2.tracking import track
stage, root = sys.argv[1:]
with track(stage, Path(root), {"shared": {"seed": 1}, stage: {"lr": 0.5}}) as tracker:
    tracker.metrics({"loss": 1.5}, step=3)
    tracker.metrics({"val_loss": 2.5})
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one store for the tests that need no fresh one; its name holds a space."""
    return tmp_path_factory.mktemp("my repository")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def runs_of(root: Path, stage: str | None = None) -> list[Run]:
    """All runs of a store, the earliest first, or those of a stage."""
    client = client_of(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in found if stage in (None, run.info.run_name)]


def parent_of(run: Run) -> str | None:
    parent: str | None = run.data.tags.get("mlflow.parentRunId")
    return parent


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH, **settings}


def test_what_was_logged_reads_back_equal(root: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    params = {"pretrain": {"lr": 1e-3, "model": {"layers": 4}}, "many": dict.fromkeys("abc", "x")}
    params["many"] |= {f"key{number}": str(number) for number in range(120)}
    losses = [3.0 / (step + 1) for step in range(1200)]
    rows = [{"id": 1, "response": "ä"}, {"id": 2, "response": "line\nline"}]
    figure = Figure()
    figure.subplots().plot([1, 2])
    extra = tmp_path / "extra.txt"
    extra.write_text("extra")
    with track("pretrain", root, params) as tracker:
        for step, loss in enumerate(losses):
            tracker.metrics({"loss": loss}, step)
        tracker.metrics({"val_loss": 2.0})
        tracker.text("Once upon a time", "samples/000100.txt")
        tracker.table(rows, "responses.json")
        tracker.table([], "empty.json")
        tracker.figure(figure, "loss.png")
        tracker.artifact(extra)

    (run,) = runs_of(root, "pretrain")
    client = client_of(root)
    assert run.info.status == "FINISHED"
    assert parent_of(run) is None
    assert run.data.params == {key: str(value) for key, value in flatten(params).items()}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == list(enumerate(losses))
    assert run.data.metrics["val_loss"] == 2.0
    assert Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")).is_relative_to(
        root / "mlruns"
    )
    artifacts = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (artifacts / "samples" / "000100.txt").read_text() == "Once upon a time"
    table = json.loads((artifacts / "responses.json").read_text())
    assert table == {"columns": ["id", "response"], "data": [[1, "ä"], [2, "line\nline"]]}
    assert (artifacts / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (artifacts / "extra.txt").read_text() == "extra"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("loss is not finite"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_end_of_a_stage_gives_its_status(root: Path, error: BaseException, status: str) -> None:
    stage = f"{status} by {type(error).__name__}"
    with pytest.raises(type(error)), track(stage, root, {}) as tracker:
        tracker.metrics({"loss": 1.0}, step=7)
        raise error
    (run,) = runs_of(root, stage)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}


def test_refused_input_leaves_no_run_but_a_run_that_began_fails(root: Path) -> None:
    with pytest.raises(UserError), track("refused", root, {"a": 1}):
        raise UserError("params.yaml: unknown key")
    with pytest.raises(UserError), track("begun", root, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
        raise UserError("disk full")
    assert runs_of(root, "refused") == []
    assert [run.info.status for run in runs_of(root, "begun")] == ["FAILED"]


def test_stages_of_one_dvc_repro_stand_under_one_parent(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    command = f"{sys.executable} stage.py"
    stages = {
        "one": {"cmd": f"{command} one . && echo 1 > 1.txt", "outs": ["1.txt"]},
        "two": {"cmd": f"{command} two . && echo 2 > 2.txt", "deps": ["1.txt"], "outs": ["2.txt"]},
    }
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    dvc = str(Path(sys.executable).with_name("dvc"))
    for arguments in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run(
            [dvc, *arguments], cwd=tmp_path, env=environment(DVC_NO_ANALYTICS="1"), check=True
        )

    (parent,) = (run for run in runs_of(tmp_path) if not parent_of(run))
    (one,) = runs_of(tmp_path, "one")
    (two,) = runs_of(tmp_path, "two")
    assert [parent_of(run) for run in (one, two)] == [parent.info.run_id] * 2
    assert parent.info.run_name.startswith("dvc 20")
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time <= one.info.start_time < two.info.start_time
    assert parent.info.end_time >= two.info.end_time
    assert parent.data.metrics == {"one.val_loss": 2.5, "two.val_loss": 2.5}
    assert parent.data.params == {"shared.seed": "1", "one.lr": "0.5", "two.lr": "0.5"}


def test_two_stages_that_start_at_once_make_one_store_and_one_parent(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE, stage, str(tmp_path)],
            env=environment(DVC_EXP_NAME="spicy-llama"),
        )
        for stage in ("one", "two")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (parent,) = runs_of(tmp_path, "spicy-llama")
    (one,) = runs_of(tmp_path, "one")
    (two,) = runs_of(tmp_path, "two")
    assert [parent_of(run) for run in (one, two)] == [parent.info.run_id] * 2
    assert parent.data.metrics == {"one.val_loss": 2.5, "two.val_loss": 2.5}


def test_an_experiment_of_dvc_is_one_parent_with_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "spicy-llama")
    for revision in ("abc", "def"):
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", revision)
        for stage in ("first", "second"):
            with track(stage, root, {"lr": revision}) as tracker:
                tracker.metrics({"loss": 1.0})
    parents = runs_of(root, "spicy-llama")
    assert [parent.data.params for parent in parents] == [{"lr": "abc"}, {"lr": "def"}]
    expected = [parent.info.run_id for parent in parents]
    assert [parent_of(run) for run in runs_of(root, "first")] == expected
    assert [parent_of(run) for run in runs_of(root, "second")] == expected


def test_a_stage_with_nothing_to_send_yet_does_not_wait_for_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gpt2.tracking import MlflowTracker\n"
        "tracker = MlflowTracker('pretrain', 'sqlite:///mlflow.db', Path())\n"
        "tracker.params({'lr': 1}); tracker.metrics({'loss': 1.0}, 1)\n"
        "print('mlflow' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "False\n"


def test_off_tracks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with track("pretrain", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert isinstance(tracker, NullTracker)
    assert list(tmp_path.iterdir()) == []


def assert_training_survives(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stage that logs for a while ends well, soon, and with one warning."""
    started = time.monotonic()
    done = False
    with caplog.at_level(logging.WARNING, "gpt2"), track("pretrain", root, {"a": 1}) as tracker:
        for step in range(1200):
            tracker.metrics({"loss": 1.0}, step)
        tracker.text("sample", "sample.txt")
        done = True
    assert done
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking")
    assert record.getMessage().startswith("tracking is off: ")
    assert record.getMessage().endswith("Metrics stay in metrics/ and plots/")
    assert time.monotonic() - started < 6


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


def test_database_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_text("this is a text, and not a database\n" * 100)
    assert_training_survives(tmp_path, caplog)
