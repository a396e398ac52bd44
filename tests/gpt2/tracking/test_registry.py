import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from gpt2.core import files
from gpt2.tracking.store import EXPERIMENT
from gpt2.tracking.tracker import track
from tests.gpt2.tracking.runs import client_of, environment, model_directory


def log_all_kinds(root: Path, directory: Path, loss: float) -> None:
    with track(
        "finetune", root, {"profile": "x", "finetune": {"lr": 1.0}}, ["finetune"]
    ) as tracker:
        tracker.dataset(
            "tokens/train", digest="a" * 64, source=Path("data/tokens"), context="training", rows=3
        )
        tracker.metrics({"val_loss": loss, "perplexity": 9.0})
        tracker.model(model_directory(directory, str(loss)), best_by="val_loss")


def assert_all_kinds(client: MlflowClient, directory: Path, losses: Sequence[float]) -> None:
    """Datasets, models, and a registered model whose best version has the lowest of ``losses``."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    query = "tags.stage = 'finetune'"
    found = client.search_runs([experiment.experiment_id], query, order_by=["start_time"])
    runs = [client.get_run(run.info.run_id) for run in found]
    (given,) = runs[0].inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.profile) == ("tokens/train", '{"rows": 3}')
    assert json.loads(given.dataset.source) == {"uri": "data/tokens", "digest": "a" * 64}
    assert [tag.value for tag in given.tags] == ["training"]

    name = "gpt2-from-scratch-finetune-x"
    best = client.get_model_version_by_alias(name, "best")
    assert float(best.tags["val_loss"]) == min(losses)
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: v.version)
    assert [float(version.tags["val_loss"]) for version in versions] == losses
    for run, version, loss in zip(runs, versions, losses, strict=True):
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert version.run_id == model.source_run_id == run.info.run_id
        assert {metric.key: metric.value for metric in model.metrics} == run.data.metrics
        assert run.data.metrics == {"val_loss": loss, "perplexity": 9.0}
        assert model.params == {"finetune.lr": "1.0"}
        assert model.tags["directory"] == directory.as_posix()
        assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 1
    assert model.tags["digest"] == files.digest(directory)


def test_models_point_at_their_directory_and_the_best_one_is_known(
    root: Path, tmp_path: Path
) -> None:
    losses = [2.0, 1.0, 3.0]
    for loss in losses:
        log_all_kinds(root, tmp_path / "finetuned", loss)
    assert_all_kinds(client_of(root), tmp_path / "finetuned", losses)


def test_a_server_gets_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
            *("--artifacts-destination", str(tmp_path / "artifacts")),
        ],
        env=environment(
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        losses = [2.0, 1.0]
        for loss in losses:
            log_all_kinds(tmp_path, tmp_path / "finetuned", loss)
        assert not [record for record in caplog.records if record.name.startswith("gpt2.tracking")]
        assert_all_kinds(MlflowClient(uri), tmp_path / "finetuned", losses)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
