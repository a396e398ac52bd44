import gc
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

import gpt2
from gpt2 import tracking
from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.locks import locked
from gpt2.tracking import NullTracker, flatten, track
from gpt2.tracking.store import EXPERIMENT, Store, own_store, pipeline_status

PYTHONPATH = str(Path(gpt2.__file__).parents[1])
STAGE = """
import sys, time
from pathlib import Path
from gpt2.tracking import track
stage, root, code = sys.argv[1:]
params = {"profile": "starter", "shared": {"seed": 1}, "one": {"lr": 5e-5}, "two": {"lr": 0.5}}
with track(stage, Path(root), params, [stage], f"{stage}.lr") as tracker:
    exec(code)
"""
RESULTS = "tracker.metrics({'loss': 1.5}, step=3); tracker.metrics({'val_loss': 2.5})"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with one store for the tests that need no fresh one, in an odd directory."""
    root = tmp_path_factory.mktemp("repository") / "what? #1 50%25 für;'&"
    root.mkdir()
    yield root
    assert [path.name for path in root.parent.iterdir()] == [root.name]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(own_store(root))


def runs_of(root: Path, stage: str | None = None) -> list[Run]:
    """All runs of a store, the earliest first, or those of a stage (``pipeline``: the parents)."""
    client = client_of(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in found if stage in (None, run.data.tags["stage"])]


def parent_of(run: Run) -> str | None:
    parent: str | None = run.data.tags.get("mlflow.parentRunId")
    return parent


def pipeline_of(root: Path, experiment: str) -> Run:
    """The one parent run of an experiment."""
    (run,) = (run for run in runs_of(root, "pipeline") if run.info.run_name == experiment)
    return run


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


def test_a_pipeline_failed_if_a_stage_did_until_that_stage_does_well(
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


def test_a_killed_run_is_gone_on_with_or_closed_by_the_next_start(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(stage: str, code: str) -> None:
        """Kill a stage with -9 when all that it told has reached the store."""
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

    # It has come to its end: the same work done again is another run.
    with track("one", root, {"a": 1}) as tracker:
        tracker.begin(tmp_path)
    assert len(runs_of(root, "one")) == 2


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


def model_directory(path: Path, text: str) -> Path:
    with files.new_directory(path) as new:
        (new / "model.safetensors").write_text(text)
    return path


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


def test_a_server_is_told_the_same(
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
        assert not [record for record in caplog.records if record.name == "gpt2.tracking"]
        assert_all_kinds(MlflowClient(uri), tmp_path / "finetuned", losses)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_names_that_mlflow_refuses_are_spelled_out_and_kept(
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


def test_what_is_refused_is_told_and_the_rest_goes_on(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(own_store(root), root)
    run = store.create("refusals", 0, {"stage": "refusals"}, {})
    points = [Metric(key, 1.0, 0, 0) for key in ("first", "b&d", "last")]
    store.log_metrics(run.info.run_id, points)
    assert client_of(root).get_run(run.info.run_id).data.metrics == {"first": 1.0, "last": 1.0}
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking.store")
    assert record.getMessage().startswith('MLflow does not take b&d: Invalid value "b&d"')

    with track("half", root, {"a": 1}) as tracker:
        tracker.dataset("x" * 501, digest="a", source=Path("x"), context="training")
        tracker.metrics({"val_loss": 2.0})
    (half,) = runs_of(root, "half")
    assert (half.info.status, half.data.metrics["val_loss"]) == ("FINISHED", 2.0)
    assert "MLflow does not take all: " in caplog.text


def test_a_deleted_experiment_is_named_with_its_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with track("first", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    (run,) = runs_of(tmp_path)
    client_of(tmp_path).delete_experiment(run.info.experiment_id)
    assert_training_survives(tmp_path, caplog)
    message = caplog.messages[-1]
    assert f"the experiment {EXPERIMENT} is deleted. Bring it back: " in message
    remedy = message.partition("Bring it back: ")[2].partition(", or set")[0]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    subprocess.run(remedy.replace(" mlflow ", f" {mlflow} "), shell=True, cwd=tmp_path, check=True)
    with track("second", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert len(runs_of(tmp_path)) == 2


def test_the_machine_is_watched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with track("watched", root, {"a": 1}) as tracker:
        tracker.begin()
        time.sleep(1)
    (run,) = runs_of(root, "watched")
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100


def test_off_tracks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with track("pretrain", tmp_path, {"a": 1}) as tracker:
        tracker.metrics({"loss": 1.0})
    assert isinstance(tracker, NullTracker)
    assert list(tmp_path.iterdir()) == []


def assert_training_survives(
    root: Path, caplog: pytest.LogCaptureFixture, seconds: float = 6
) -> None:
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
    assert time.monotonic() - started < seconds


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
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking")
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
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking")
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
    (record,) = (record for record in caplog.records if record.name == "gpt2.tracking")
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
