import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow.tracking import MlflowClient

from gpt2.tracking.store import own_store
from gpt2.tracking.tracker import track
from scripts.deps import ROOT
from scripts.ui import free_port


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a run; its experiment is not the first in the store."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "runs? #1 %25"
    place.mkdir()
    MlflowClient(own_store(place)).create_experiment("another")
    with track("pretrain", place, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
        tracker.text("Once upon a time", "sample.txt")
    return place


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **settings}


def refused(place: Path, *arguments: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.ui", *arguments],
        cwd=place,
        env=environment(**settings),
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@contextmanager
def shown(place: Path, *arguments: str) -> Iterator[list[str]]:
    """The output of `make ui`, while the server runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.ui", *arguments],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("all runs: "):
                    break
            yield lines
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_port_in_use_is_skipped_and_the_url_shows_the_experiment_in_use(
    place: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with shown(place, "--port", str(port)) as (note, line):
            found = re.fullmatch(
                r"all runs: (http://127\.0\.0\.1:(\d+))/#/experiments/(\d+)/runs\?.*", line
            )
            assert found
            server, free, experiment = found.groups()
            assert note == f"port {port} is in use; using {free}"
            assert int(free) > port
            name = experiment_name(server, experiment)
    assert name == "gpt2-from-scratch"
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]


def experiment_name(server: str, experiment: str) -> str:
    """The name of an experiment, as soon as the server answers."""
    question = f"{server}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
    for _ in range(600):
        try:
            with urlopen(question) as answer:
                return str(json.load(answer)["experiment"]["name"])
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(question)


def test_where_there_is_nothing_to_show(place: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(empty) == "error: there are no runs yet. First: make run\n"
    assert not list(empty.iterdir())
    other = refused(place, MLFLOW_EXPERIMENT_NAME="unknown")
    assert other == "error: there are no runs yet. First: make run\n"
    client = MlflowClient(own_store(place))
    experiment = client.get_experiment_by_name("gpt2-from-scratch")
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    message = refused(place)
    assert "the experiment gpt2-from-scratch is deleted. Restore it: " in message
    assert f"mlflow experiments restore --experiment-id {experiment.experiment_id}" in message


def test_a_free_port_is_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port
