import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Metric

from gpt2.tracking.store import EXPERIMENT, Store, own_store
from gpt2.tracking.tracker import track
from tests.gpt2.tracking.runs import assert_training_survives, client_of, runs_of


def test_what_mlflow_rejects_is_reported_and_the_rest_is_logged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(own_store(root), root)
    run = store.create("refusals", 0, {"stage": "refusals"}, {})
    points = [Metric(key, 1.0, 0, 0) for key in ("first", "b&d", "last")]
    store.log_metrics(run.info.run_id, points)
    assert client_of(root).get_run(run.info.run_id).data.metrics == {"first": 1.0, "last": 1.0}
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.store")
    assert record.getMessage().startswith('MLflow rejects b&d: Invalid value "b&d"')

    with track("half", root, {"a": 1}) as tracker:
        tracker.dataset("x" * 501, digest="a", source=Path("x"), context="training")
        tracker.metrics({"val_loss": 2.0})
    (half,) = runs_of(root, "half")
    assert (half.info.status, half.data.metrics["val_loss"]) == ("FINISHED", 2.0)
    assert "MLflow rejects a part: " in caplog.text


def test_a_deleted_experiment_is_named_with_its_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with track("first", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    (run,) = runs_of(tmp_path)
    client_of(tmp_path).delete_experiment(run.info.experiment_id)
    assert_training_survives(tmp_path, caplog)
    message = caplog.messages[-1]
    assert f"the experiment {EXPERIMENT} is deleted. Restore it: " in message
    remedy = message.partition("Restore it: ")[2].partition(", or set")[0]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    subprocess.run(remedy.replace(" mlflow ", f" {mlflow} "), shell=True, cwd=tmp_path, check=True)
    with track("second", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert len(runs_of(tmp_path)) == 2
