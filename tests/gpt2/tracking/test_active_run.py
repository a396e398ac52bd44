import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpt2.tracking.active_run import pipeline_status
from gpt2.tracking.tracker import track
from tests.gpt2.tracking.runs import client_of, model_directory, pipeline_of, runs_of


def test_results_of_restored_stages_reach_the_parent_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "sweet-llama")
    with track("third", root, {"a": 1}) as tracker:
        tracker.metrics({"val_loss": 3.0})
        tracker.restored({"download": {"documents": 10.0}})
    with track("fourth", root, {"a": 1}) as tracker:
        tracker.metrics({"val_loss": 2.0})
        tracker.restored({"download": {"documents": 10.0}, "third": {"val_loss": 3.0}})
    parent = pipeline_of(root, "sweet-llama")
    results = {"download/documents": 10.0, "third/val_loss": 3.0, "fourth/val_loss": 2.0}
    assert parent.data.metrics == results
    client = client_of(root)
    assert all(len(client.get_metric_history(parent.info.run_id, key)) == 1 for key in results)


def test_a_pipeline_failed_if_a_stage_did_until_that_stage_succeeds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "sour-llama")
    with pytest.raises(RuntimeError), track("early", root, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
        raise RuntimeError("disk full")
    with track("late", root, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert pipeline_of(root, "sour-llama").info.status == "FAILED"
    with track("early", root, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert pipeline_of(root, "sour-llama").info.status == "FINISHED"


@pytest.mark.parametrize(
    ("stages", "status"),
    [
        (["FINISHED", "FINISHED"], "FINISHED"),
        (["FINISHED", "KILLED"], "KILLED"),
        (["KILLED", "FAILED"], "FAILED"),
        (["FAILED", "RUNNING"], "RUNNING"),
    ],
)
def test_the_status_of_a_pipeline(stages: Sequence[str], status: str) -> None:
    assert pipeline_status(stages) == status


def test_names_that_mlflow_rejects_are_spelled_out_and_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "odd-llama")
    names = {"Q&A": "Q:ampersand:A", "..": ":full stop:.", "日本": "日本"}
    params = {"profile": "a/b's: 1", "odd": {"Q&A": "on\ud800", "long": "x" * 7000}}
    directory = model_directory(root / "odd", "odd")
    with track("odd", root, params, ["odd"]) as tracker:
        tracker.metrics({f"kind.{name}.n": place for place, name in enumerate(names)})
        tracker.metrics({"..": 5.0, "val/loss": 6.0}, step=1)
        tracker.restored({"download": {"Q&A": 7.0}})
        tracker.tags({"100%": "ä"})
        tracker.text("half \ud800", "../odd.txt")
        tracker.model(directory, "kind.日本.n")
    assert not [record for record in caplog.records if record.name.startswith("gpt2.tracking")]
    (run,) = runs_of(root, "odd")
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "kind.Q:ampersand:A.n": 0.0,
        "kind....n": 1.0,
        "kind.日本.n": 2.0,
        ":full stop:.": 5.0,
        "val/loss": 6.0,
    }
    originals = {"kind.Q:ampersand:A.n": "kind.Q&A.n", ":full stop:.": ".."}
    assert run.data.tags.items() >= {**originals, "100:percent sign:": "ä"}.items()
    assert run.data.params == {"odd.Q:ampersand:A": "on\\ud800", "odd.long": "x" * 6000}
    client = client_of(root)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [":full stop:."]
    whole = pipeline_of(root, "a/b's: 1 · odd-llama").data.metrics
    assert whole["odd/kind.Q:ampersand:A.n"] == 0.0
    assert whole["download/Q:ampersand:A"] == 7.0
    name = "gpt2-from-scratch-odd-a~solidus~b~apostrophe~s~colon~ 1"
    assert client.get_model_version_by_alias(name, "best").run_id == run.info.run_id


def test_system_metrics_are_logged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with track("watched", root, {"a": 1}) as tracker:
        tracker.begin()
        time.sleep(1)
    (run,) = runs_of(root, "watched")
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100
