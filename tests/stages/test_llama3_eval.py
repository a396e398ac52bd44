"""The whole stage with a real judge of random weights: results, errors and kills."""

import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpt2.core import files
from stages.llama3_eval import main
from tests.fake_ollama import serving_ollama
from tests.gpt2.evaluation.judge.servers import free_port, running
from tests.tiny_llama import write_tiny_llama

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--responses-dir", "responses", "--judge-dir", "judge", "--judgements-dir", "judged"]
VARIANTS = {"finetuned": 12, "base": 12, "reference": 6, "shuffled": 6}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    fill(tmp_path)
    return tmp_path


def fill(place: Path) -> None:
    responses = [
        {
            "id": id,
            "kind": ("describe", "library")[id % 2],
            "instruction": "What does it do?",
            "input": f"def f{id}()",
            "name": f"m.f{id}",
            "reference": f"It does {id}.",
            "finetuned": f"It makes {id * 7}.",
            "base": "the " * (id % 9),
        }
        for id in range(300)
    ]
    with files.new_directory(place / "responses") as new:
        lines = "".join(json.dumps(response) + "\n" for response in responses)
        files.write_text(new / "responses.jsonl", lines)
    section = {"backend": "llamacpp", "model": {"file": "m.gguf", "sha256": None}, "threads": 1}
    with files.new_directory(place / "judge", section) as new:
        write_tiny_llama(new / "model.gguf")
    set_params(place)


def set_params(place: Path, **changed: object) -> None:
    section = {"n_items": 12, "n_controls": 6, **changed}
    files.write_json(place / "params.yaml", {"llama3_eval": section})  # JSON is YAML


def evaluate() -> Result:
    return CliRunner().invoke(main, ARGUMENTS)


def test_results_add_up_and_a_useless_judge_is_not_trusted(place):
    result = evaluate()
    assert result.exit_code == 0, result.output
    metrics = files.read_json(Path("metrics/llama3_eval.json"))
    files.read_manifest(Path("judged"))
    lines = Path("judged/judgements.jsonl").read_text(encoding="utf-8").splitlines()
    judged = [json.loads(line) for line in lines]
    for variant, total in VARIANTS.items():
        own = metrics[variant]
        scores = [row["score"] for row in judged if row["variant"] == variant]
        assert own["n_total"] == own["scored"] + own["invalid"] + own["error"] == total
        assert (own["mean"], own["median"]) == (
            statistics.fmean(scores),
            statistics.median(scores),
        )
    difference = metrics["difference"]
    assert difference["mean"] == pytest.approx(
        metrics["finetuned"]["mean"] - metrics["base"]["mean"]
    )
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert metrics["judge_digest"] == files.sha256(Path("judge/model.gguf"))
    assert metrics["control_auc"] < 0.9
    assert metrics["trusted"] is False
    assert metrics["reasoned"] == 0
    assert "cannot tell right from wrong answers" in result.output
    with Path("plots/llama3_eval_scores.csv").open(encoding="utf-8") as file:
        bins = list(csv.DictReader(file))
    assert sum(int(row["count"]) for row in bins) == len(judged) == sum(VARIANTS.values())
    assert not list(Path("data/runs/llama3-eval").glob("*.jsonl"))


def test_with_a_lower_limit_the_same_judge_is_trusted(place):
    set_params(place, min_control_auc=0.0)
    result = evaluate()
    assert files.read_json(Path("metrics/llama3_eval.json"))["trusted"] is True
    assert "the judge is trusted" in result.output


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"max_tokens": 5}, "36 of 36 judgements have no score (36 invalid, 0 error)"),
        ({"n_ctx": 256}, "36 of 36 judgements have no score (0 invalid, 36 error)"),
        ({"max_tokens": 5, "max_invalid": 0.99}, "36 of 36 judgements have no score"),
    ],
)
def test_too_many_without_a_score_fail_and_keep_what_is_finished(place, changed, reason):
    set_params(place, **changed)
    result = evaluate()
    assert result.exit_code == 1
    assert reason in result.output
    (log,) = Path("data/runs/llama3-eval").glob("*.jsonl")
    assert len(log.read_text().splitlines()) > 0
    assert not Path("judged").exists()
    assert not Path("metrics").exists()


def test_bad_responses_are_named_by_line(place):
    with files.new_directory(place / "responses") as new:
        files.write_text(new / "responses.jsonl", '{"id": "1"}\nnonsense\n')
    result = evaluate()
    assert result.exit_code == 1
    assert "line 1: kind Field required" in result.output
    assert "line 2: " in result.output


def test_missing_and_damaged_inputs_are_named(place):
    model = place / "judge" / "model.gguf"
    data = bytearray(model.read_bytes())
    data[70_000] ^= 1
    model.write_bytes(data)
    assert "model.gguf: sha256 is" in evaluate().output
    model.unlink()
    assert "model.gguf: missing" in evaluate().output
    (place / "responses" / "manifest.json").unlink()
    result = evaluate()
    assert result.exit_code == 1
    assert "responses: no manifest.json" in result.output


def test_kill_9_in_the_middle_and_again_ends_as_an_undisturbed_run(place, tmp_path_factory):
    set_params(place, n_items=200)
    command = [sys.executable, "-m", "stages.llama3_eval", *ARGUMENTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    logs = Path("data/runs/llama3-eval")
    with subprocess.Popen(command, env=environment) as process:
        while sum(log.read_bytes().count(b"\n") for log in logs.glob("*.jsonl")) < 20:
            assert process.poll() is None, "the stage ended before it was killed"
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not Path("judged").exists()
    assert evaluate().exit_code == 0
    resumed = Path("judged/judgements.jsonl").read_bytes()
    metrics = Path("metrics/llama3_eval.json").read_bytes()

    undisturbed = tmp_path_factory.mktemp("undisturbed")
    fill(undisturbed)
    set_params(undisturbed, n_items=200)
    os.chdir(undisturbed)
    assert evaluate().exit_code == 0
    assert Path("judged/judgements.jsonl").read_bytes() == resumed
    assert Path("metrics/llama3_eval.json").read_bytes() == metrics


def set_judge(place: Path, **section: object) -> None:
    with files.new_directory(place / "judge", {"patience": 0.5, "timeout": 10.0, **section}):
        pass


def judged() -> list[dict[str, object]]:
    return [
        json.loads(line)
        for line in Path("judged/judgements.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_ollama_judges_and_is_named_with_its_digest(place):
    with serving_ollama() as server:
        set_judge(place, backend="ollama", model="llama3", host=server.address, concurrency=2)
        result = evaluate()
    assert result.exit_code == 0, result.output
    assert "the judge is trusted" in result.output
    manifest = files.read_manifest(Path("judged"))
    assert manifest["judge"] == server.digest
    assert (manifest["backend"], manifest["model"]) == ("ollama", "llama3")
    assert (manifest["host"], manifest["concurrency"]) == (server.address, 2)
    assert manifest["engine"] == f"ollama {server.version}"
    assert {row["judge"] for row in judged()} == {server.digest}
    assert files.read_json(Path("metrics/llama3_eval.json"))["finetuned"]["scored"] == 12


def test_a_model_behind_openais_protocol_judges(place):
    set_params(place, max_tokens=160)
    port = free_port()
    address = f"http://127.0.0.1:{port}/v1"
    with running("tests.gpt2.evaluation.judge.llama_server", place / "judge" / "model.gguf", port):
        set_judge(place, backend="openai", model="tiny", base_url=address)
        result = evaluate()
    assert result.exit_code == 0, result.output
    manifest = files.read_manifest(Path("judged"))
    assert (manifest["backend"], manifest["model"]) == ("openai", "tiny")
    assert manifest["base_url"] == address
    assert {row["status"] for row in judged()} == {"scored"}
    assert {row["judge"] for row in judged()} == {manifest["judge"]}


def test_an_unreachable_or_unknown_judge_is_named(place):
    set_judge(place, backend="ollama", host=f"127.0.0.1:{free_port()}")
    assert "Start it: ollama serve" in evaluate().output
    with serving_ollama(model="phi3") as server:
        set_judge(place, backend="ollama", host=server.address)
        assert "Fetch it: ollama pull llama3" in evaluate().output
    set_judge(place, backend="oracle")
    assert "judge/manifest.json: " in evaluate().output


@pytest.mark.parametrize("concurrency", [1, 4])
def test_kill_9_of_the_server_and_of_the_stage_and_again(place, concurrency):
    port, served = free_port(), Path("served.jsonl")
    host, logs = f"127.0.0.1:{port}", Path("data/runs/llama3-eval")
    set_params(place, n_items=100)
    set_judge(place, backend="ollama", host=host, concurrency=concurrency)
    fake = ["tests.fake_ollama", "--port", port, "--delay", "0.002", "--served", served.resolve()]
    command = [sys.executable, "-m", "stages.llama3_eval", *ARGUMENTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def lines() -> list[str]:
        return [line for log in logs.glob("*.jsonl") for line in log.read_text().splitlines()]

    def wait_for(count: int, process: subprocess.Popen[str]) -> None:
        while len(lines()) < count:
            assert process.poll() is None, "the stage ended before the kill"
            time.sleep(0.002)

    with running(*fake) as server:
        with subprocess.Popen(command, env=environment) as stage:
            wait_for(20, stage)
            stage.kill()
        # Of the answered prompts, only those in flight are lost.
        assert (
            0 <= len(served.read_text(encoding="utf-8").splitlines()) - len(lines()) <= concurrency
        )
        before = len(lines())
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as stage:
            wait_for(before + 20, stage)
            server.kill()
            _, message = stage.communicate()
        assert stage.returncode == 1
        assert f"{len(lines())} of 212 judgements are finished and kept" in message
    finished = lines()
    served.unlink()
    with running(*fake):
        result = evaluate()
    assert result.exit_code == 0, result.output
    assert len(served.read_text(encoding="utf-8").splitlines()) == 212 - len(finished)
    metrics = files.read_json(Path("metrics/llama3_eval.json"))
    totals = {"finetuned": 100, "base": 100, "reference": 6, "shuffled": 6}
    for variant, total in totals.items():
        counts = metrics[variant]
        assert counts["n_total"] == counts["scored"] == total
    assert len(judged()) == 212


def test_two_experiments_with_the_same_judge_and_responses_take_turns(place, tmp_path_factory):
    command = [sys.executable, "-m", "stages.llama3_eval", *ARGUMENTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(place)}

    def start(directory: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True
        )

    with serving_ollama(delay=0.15) as server:
        set_judge(place, backend="ollama", host=server.address)
        copy = tmp_path_factory.mktemp("copy")
        shutil.copytree(place, copy, dirs_exist_ok=True)
        with start(place) as first:
            while not server.requests:
                assert first.poll() is None, "the first ended before it asked"
                time.sleep(0.01)
            with start(copy) as second:
                told, waited = first.communicate()[0], second.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0), told + waited
    assert f"waiting for process {first.pid}" in waited
    results = [directory / "judged" / "judgements.jsonl" for directory in (place, copy)]
    assert results[0].read_bytes() == results[1].read_bytes()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_sigterm_does_not_wait_for_a_server_that_hangs(place, concurrency):
    with serving_ollama() as server:
        server.faults = ["hang"] * 100
        set_judge(
            place, backend="ollama", host=server.address, concurrency=concurrency, timeout=300.0
        )
        command = [sys.executable, "-m", "stages.llama3_eval", *ARGUMENTS]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as stage:
            while len(server.requests) < concurrency:
                assert stage.poll() is None, "the stage ended before the signal"
                time.sleep(0.01)
            stage.terminate()
            assert stage.wait(60) == 128 + signal.SIGTERM
    assert not Path("judged").exists()


NO_SCORE = ["prose", "fraction", "huge", "empty", "schema"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_has_no_score_is_counted_and_neither_0_nor_dropped(place, concurrency):
    faults = [*NO_SCORE, "crash", "", "garbage", *NO_SCORE]
    with serving_ollama() as server:
        server.faults = list(faults)
        set_judge(place, backend="ollama", host=server.address, concurrency=concurrency)
        set_params(place, max_invalid=0.4)
        result = evaluate()
    assert result.exit_code == 0, result.output
    rows = judged()
    assert len(rows) == sum(VARIANTS.values())
    statuses = [row["status"] for row in rows]
    assert (statuses.count("invalid"), statuses.count("error")) == (10, 2)
    assert all((row["score"] is None) == (row["status"] != "scored") for row in rows)
    metrics = files.read_json(Path("metrics/llama3_eval.json"))
    for variant, total in VARIANTS.items():
        own = metrics[variant]
        assert own["n_total"] == own["scored"] + own["invalid"] + own["error"] == total
        scores = [row["score"] for row in rows if row["variant"] == variant]
        scores = [score for score in scores if score is not None]
        assert own["mean"] == statistics.fmean(scores)
    with Path("plots/llama3_eval_scores.csv").open(encoding="utf-8") as file:
        assert sum(int(row["count"]) for row in csv.DictReader(file)) == statuses.count("scored")


def test_reasoning_is_removed_and_counted(place):
    with serving_ollama() as server:
        set_judge(place, backend="ollama", host=server.address)
        set_params(place, max_tokens=64, max_invalid=0.03)
        server.faults = ["reasoned", "fenced", "unfinished", "reasoned"]
        result = evaluate()
        assert result.exit_code == 0, result.output
        assert files.read_json(Path("metrics/llama3_eval.json"))["reasoned"] == 2
        rows = judged()[:4]
        assert [row["score"] for row in rows] == [80, 90, None, 80]
        assert rows[0]["reply"] == "<think>Equal.</think>80.0"
        set_params(place, max_tokens=65, max_invalid=0.0)
        server.faults = ["unfinished"]
        result = evaluate()
    assert result.exit_code == 1
    assert "It ends before the answer: a model that reasons first needs room" in result.output
    assert "llama3_eval.max_tokens" in result.output


@pytest.mark.parametrize(("max_invalid", "code"), [(2 / 36 + 1e-9, 0), (2 / 36 - 1e-9, 1)])
def test_just_as_many_as_allowed_may_have_no_score(place, max_invalid, code):
    with serving_ollama() as server:
        set_judge(place, backend="ollama", host=server.address)
        set_params(place, max_invalid=max_invalid)
        server.faults = ["crash", "", "empty"]
        result = evaluate()
        assert result.exit_code == code, result.output
        if code:
            assert "2 of 36 judgements have no score (1 invalid, 1 error)" in result.output
            # Only the failed prompt is asked again.
            asked = len(server.requests)
            assert evaluate().exit_code == 0
            assert len(server.requests) - asked == 1
            assert {row["status"] for row in judged()} == {"scored", "invalid"}


def test_unfinished_judgements_are_deleted_after_a_month(place):
    logs = Path("data/runs/llama3-eval")
    logs.mkdir(parents=True)
    for name, days in {"recent": 29, "old": 31}.items():
        (logs / f"{name}.jsonl").write_text("")
        then = time.time() - days * 24 * 3600
        os.utime(logs / f"{name}.jsonl", (then, then))
    assert evaluate().exit_code == 0
    assert [log.name for log in logs.glob("*.jsonl")] == ["recent.jsonl"]
