import gc
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from gpt2.core.errors import UserError
from gpt2.tracking.context import flatten
from gpt2.tracking.tracker import NullTracker, track
from tests.gpt2.tracking.runs import (
    STAGE,
    client_of,
    environment,
    parent_of,
    runs_of,
)


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
    with track("pretrain", root, {"profile": "x", **params}, list(params)) as tracker:
        tracker.tags({"device": "cpu"})
        for step, loss in enumerate(losses):
            tracker.metrics({"loss": loss}, step)
        tracker.metrics({"val_loss": 2.0})
        tracker.text("Once upon a time", "samples/000100.txt")
        tracker.table(rows, "responses.json")
        tracker.table([], "empty.json")
        tracker.figure(figure, "loss.png")
        tracker.artifact(extra)

    assert gc.isenabled()
    (run,) = runs_of(root, "pretrain")
    client = client_of(root)
    assert run.info.status == "FINISHED"
    assert parent_of(run) is None
    assert run.data.tags.items() >= {"device": "cpu", "profile": "x", "stage": "pretrain"}.items()
    assert run.data.params == {key: str(value) for key, value in flatten(params).items()}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == list(enumerate(losses))
    assert run.data.metrics["val_loss"] == 2.0
    assert Path(unquote(urlsplit(run.info.artifact_uri).path)).is_relative_to(root / "mlruns")
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


def test_input_that_is_refused_does_not_wait_for_mlflow(tmp_path: Path) -> None:
    code = "from gpt2.core.errors import UserError; raise UserError('bad')"
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", STAGE, "one", str(tmp_path), code],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "gpt2.tracking" in process.stderr
    assert "mlflow" not in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_off_tracks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with track("pretrain", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert isinstance(tracker, NullTracker)
    assert list(tmp_path.iterdir()) == []
