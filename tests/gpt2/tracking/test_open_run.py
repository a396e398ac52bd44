import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.tracking.tracker import track
from tests.gpt2.tracking.runs import STAGE, client_of, environment, parent_of, pipeline_of, runs_of

RESULTS = "tracker.metrics({'loss': 1.5}, step=3); tracker.metrics({'val_loss': 2.5})"


def test_stages_of_one_dvc_repro_stand_under_one_parent(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    command = f"{sys.executable} stage.py"
    stages = {
        "one": {"cmd": f'{command} one . "{RESULTS}" && echo 1 > 1.txt', "outs": ["1.txt"]},
        "two": {"cmd": f'{command} two . "{RESULTS}"', "deps": ["1.txt"]},
    }
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    dvc = str(Path(sys.executable).with_name("dvc"))
    for arguments in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run(
            [dvc, *arguments], cwd=tmp_path, env=environment(DVC_NO_ANALYTICS="1"), check=True
        )

    (parent,) = runs_of(tmp_path, "pipeline")
    (one,) = runs_of(tmp_path, "one")
    (two,) = runs_of(tmp_path, "two")
    assert [parent_of(run) for run in (one, two)] == [parent.info.run_id] * 2
    assert parent.info.run_name.startswith("starter · 20")
    assert one.info.run_name == "one · lr=5e-5 · starter"
    assert {run.data.tags["invocation"] for run in (parent, one, two)} == {"dvc repro --quiet"}
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time <= one.info.start_time < two.info.start_time
    assert parent.info.end_time >= two.info.end_time
    assert parent.data.metrics == {"one/val_loss": 2.5, "two/val_loss": 2.5}
    assert two.data.params == {"two.lr": "0.5"}
    everything = {"profile": "starter", "shared.seed": "1", "one.lr": "5e-05", "two.lr": "0.5"}
    assert parent.data.params == everything


def test_four_stages_at_once_make_one_store_and_one_parent_and_lose_nothing(
    tmp_path: Path,
) -> None:
    code = """
for step in range(400):
    tracker.metrics({"loss": step / 7, "lr": -step}, step)
    if step % 80 == 0:
        tracker.text("sample", f"samples/{step}.txt")
tracker.metrics({"val_loss": 2.5})
"""
    names = ("one", "two", "shared", "profile")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE, name, str(tmp_path), code],
            env=environment(DVC_EXP_NAME="spicy-llama"),
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    assert [process.communicate()[1] for process in processes] == [b""] * 4
    parent = pipeline_of(tmp_path, "starter · spicy-llama")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {f"{name}/val_loss": 2.5 for name in names}
    client = client_of(tmp_path)
    for name in names:
        (run,) = runs_of(tmp_path, name)
        assert parent_of(run) == parent.info.run_id
        losses = client.get_metric_history(run.info.run_id, "loss")
        points = sorted((point.step, point.value) for point in losses)
        assert points == [(step, step / 7) for step in range(400)]
        assert len(client.get_metric_history(run.info.run_id, "lr")) == 400
        assert len(client.list_artifacts(run.info.run_id, "samples")) == 5


def test_an_experiment_of_dvc_is_one_parent_with_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "salty-llama")
    for revision in ("abc", "def"):
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", revision)
        for stage in ("first", "second"):
            with track(stage, root, {"lr": revision}) as tracker:
                tracker.metrics({"loss": 1.0})
    parents = [run for run in runs_of(root, "pipeline") if run.info.run_name == "salty-llama"]
    assert [parent.data.params for parent in parents] == [{"lr": "abc"}, {"lr": "def"}]
    expected = [parent.info.run_id for parent in parents]
    assert [parent_of(run) for run in runs_of(root, "first")] == expected
    assert [parent_of(run) for run in runs_of(root, "second")] == expected


def test_a_killed_run_is_continued_or_closed_by_the_next_start(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(stage: str, code: str) -> None:
        """Kill a stage with -9 when the store has got all that it logged."""
        reached = set(root.glob("mlruns/*/artifacts/last.txt"))
        code += "\ntracker.text('', 'last.txt'); time.sleep(60)"
        process = subprocess.Popen(
            [sys.executable, "-c", STAGE, stage, str(root), code],
            env=environment(DVC_EXP_NAME="old-llama"),
        )
        while set(root.glob("mlruns/*/artifacts/last.txt")) == reached:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()

    kill("shared", "tracker.metrics({'loss': 1.0}, 0)")
    kill(
        "one",
        f"tracker.begin(Path({str(tmp_path)!r}))\n"
        "for step in range(50): tracker.metrics({'loss': step}, step)",
    )
    (shared,), (one,) = runs_of(root, "shared"), runs_of(root, "one")
    assert (shared.info.status, one.info.status) == ("FAILED", "RUNNING")

    monkeypatch.setenv("DVC_EXP_NAME", "new-llama")
    with track("one", root, {"a": 1}) as tracker:
        tracker.begin(tmp_path)
        for step in range(20, 80):
            tracker.metrics({"loss": step, "lr": step}, step)
        tracker.metrics({"val_loss": 2.0})
    (again,) = runs_of(root, "one")
    assert again.info.run_id == one.info.run_id
    assert again.info.status == "FINISHED"
    client = client_of(root)
    losses = client.get_metric_history(one.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in losses) == [(i, i) for i in range(80)]
    assert len(client.get_metric_history(one.info.run_id, "lr")) == 60
    old, new = pipeline_of(root, "starter · old-llama"), pipeline_of(root, "new-llama")
    assert parent_of(again) == new.info.run_id
    assert (old.info.status, new.info.status) == ("FAILED", "FINISHED")

    # It has finished: the same work done again is another run.
    with track("one", root, {"a": 1}) as tracker:
        tracker.begin(tmp_path)
    assert len(runs_of(root, "one")) == 2
