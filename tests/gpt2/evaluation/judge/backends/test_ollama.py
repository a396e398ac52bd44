"""The Ollama judge with the official client, on a fake server that can be made to fail."""

import json
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.ollama import OllamaJudge
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams
from gpt2.evaluation.judge.protocol import SCHEMA, JudgeError, JudgeGone, parse_score
from gpt2.evaluation.judge.runner import counts, judgements
from gpt2.evaluation.judge.tasks import Task
from gpt2.evaluation.judge.verdict_log import cache_key
from tests.fake_ollama import FakeOllama, serving_ollama, similarity
from tests.file_server import QuietHandler, serving
from tests.gpt2.evaluation.judge.injections import INJECTIONS, attack
from tests.gpt2.evaluation.judge.servers import free_port, running


@pytest.fixture
def server():
    with serving_ollama() as server:
        yield server


def judge_at(
    server: FakeOllama | str, max_tokens: int = 64, n_ctx: int = 2048, **settings: object
) -> OllamaJudge:
    host = server if isinstance(server, str) else server.address
    params = OllamaParams(backend="ollama", host=host, **{"patience": 1.5, **settings})
    return OllamaJudge(params, LlamaEvalParams(max_tokens=max_tokens, n_ctx=n_ctx))


def tasks(count: int) -> list[Task]:
    return [Task(n, "sum", "finetuned", f"How good is {n * n} for {n}?") for n in range(count)]


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_the_request_is_the_documented_one(server):
    judge = judge_at(server)
    assert judge.judge("How good?") == similarity("How good?")
    (body,) = server.requests
    assert body == {
        "model": "llama3",
        "messages": [{"role": "user", "content": "How good?"}],
        "tools": [],
        "stream": False,
        "think": False,
        "truncate": False,
        "shift": False,
        "format": SCHEMA,
        "options": {"num_ctx": 2048, "num_predict": 64, "temperature": 0.0, "seed": 123},
        "keep_alive": "10m",
    }


def test_digest_and_version_are_the_servers(server):
    judge = judge_at(server, concurrency=3)
    assert judge.digest == server.digest
    assert judge.options["engine"] == f"ollama {server.version}"
    assert judge.options["concurrency"] == 3
    assert judge_at(server, model="llama3:latest").digest == judge.digest


def test_another_model_version_or_concurrency_asks_again(server, tmp_path):
    log = tmp_path / "log.jsonl"
    list(judgements(tasks(3), judge_at(server), log))
    list(judgements(tasks(3), judge_at(server), log))
    assert len(server.requests) == 3
    server.digest = "ab" * 32
    judged = list(judgements(tasks(3), judge_at(server), log))
    assert len(server.requests) == 6
    assert {judgement.judge for judgement in judged} == {"ab" * 32}
    server.version = "0.14.0"
    assert list(judgements(tasks(3), judge_at(server), log)) == judged
    assert len(server.requests) == 9
    assert list(judgements(tasks(3), judge_at(server, concurrency=2), log)) == judged
    assert len(server.requests) == 12


@pytest.mark.parametrize("fault", ["prose", "fraction", "huge", "empty", "schema"])
def test_a_reply_without_a_score_counts_as_invalid(server, tmp_path, fault):
    server.faults = ["", fault]
    judged = list(judgements(tasks(3), judge_at(server), tmp_path / "log.jsonl"))
    assert [judgement.status for judgement in judged] == ["scored", "invalid", "scored"]


def test_a_cut_reply_is_invalid_and_one_with_white_space_is_a_score(server):
    assert parse_score(judge_at(server, max_tokens=3).judge("x")) is None
    server.faults = ["spaced"]
    assert parse_score(judge_at(server).judge("x")) == 100


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "llama runner process has terminated: exit status 2 .status 500"),
        ("error_in_200", "an error was encountered while running the model: EOF"),
        ("garbage", "not an answer of Ollama"),
        ("hang", "no answer within 1 s"),
    ],
)
def test_a_fault_at_one_prompt_fails_only_this_prompt(server, tmp_path, fault, reason):
    server.faults = [fault, "", fault, fault]
    judge = judge_at(server, timeout=1.0 if fault == "hang" else 60.0)
    judged = list(judgements(tasks(5), judge, tmp_path / "log.jsonl"))
    statuses = ["error", "scored", "error", "error", "scored"]
    assert [judgement.status for judgement in judged] == statuses
    assert counts(judged) == {"n_total": 5, "scored": 2, "invalid": 0, "error": 3}
    server.faults = [fault] * 9
    with pytest.raises(JudgeError, match=reason):
        judge.judge("x")


@pytest.mark.parametrize("fault", ["crash", "hang", "garbage"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_fails_at_every_prompt_ends_the_run(server, tmp_path, fault, concurrency):
    log = tmp_path / "log.jsonl"
    list(judgements(tasks(4), judge_at(server, concurrency=concurrency), log))
    server.faults = [fault] * 1000
    judge = judge_at(server, timeout=0.3, concurrency=concurrency)
    with pytest.raises(UserError, match=r"(?s)\d prompts in a row failed.*4 of 1000 judg"):
        list(judgements(tasks(1000), judge, log))
    assert len(server.requests) < 20
    replies = [line for line in lines_of(log) if '"error":null' in line]
    assert len(replies) == 4


def test_a_busy_or_dying_server_is_asked_again(server):
    server.faults = ["busy", "die", "cut"]
    assert judge_at(server, patience=5.0).judge("x") == similarity("x")
    assert len(server.requests) == 4


def test_a_server_that_stays_busy_ends_the_run(server, tmp_path):
    server.faults = ["", ""] + ["busy"] * 1000
    log = tmp_path / "log.jsonl"
    with pytest.raises(UserError, match=r"(?s)server busy.*2 of 100 judgements are finished and"):
        list(judgements(tasks(100), judge_at(server), log))
    server.faults = []
    assert counts(list(judgements(tasks(100), judge_at(server), log)))["scored"] == 100
    assert len(lines_of(log)) == 100


def test_a_full_queue_is_waited_for(tmp_path):
    with serving_ollama(queue=0, delay=0.02) as server:
        judge = judge_at(server, concurrency=4, patience=20.0)
        judged = list(judgements(tasks(12), judge, tmp_path / "log.jsonl"))
        assert counts(judged)["scored"] == 12
        assert len(server.requests) > 12


def test_parallel_prompts_give_the_same_in_the_same_order(server, tmp_path):
    one = list(judgements(tasks(40), judge_at(server), tmp_path / "one.jsonl"))
    server.delay = 0.002
    four = list(judgements(tasks(40), judge_at(server, concurrency=4), tmp_path / "four.jsonl"))
    assert four == one
    assert len(server.requests) == 80


def test_a_missing_model_is_named_at_the_start_and_in_the_middle(server, tmp_path):
    with pytest.raises(JudgeGone, match=r"it has: llama3:latest.*ollama pull mistral"):
        judge_at(server, model="mistral")
    server.faults = ["", "missing"]
    with pytest.raises(UserError, match=r"(?s)ollama pull llama3.*1 of 9 judgements"):
        list(judgements(tasks(9), judge_at(server), tmp_path / "log.jsonl"))


def test_a_missing_server_is_named(tmp_path):
    with pytest.raises(JudgeGone, match=r"no Ollama server answers at .*: ?.*ollama serve"):
        judge_at(f"127.0.0.1:{free_port()}")
    with serving(tmp_path) as address, pytest.raises(JudgeGone, match="status 404"):
        judge_at(address)
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "tags").write_text("<html>")
    with serving(tmp_path) as address, pytest.raises(JudgeGone, match="not an answer of Ollama"):
        judge_at(address)
    (tmp_path / "api" / "tags").write_text('{"models": [{"model": "llama3", "digest": "ab"}]}')
    for version in ("<html>", "[]", "{}", "[" * 100_000):
        (tmp_path / "api" / "version").write_text(version)
        with serving(tmp_path) as address, pytest.raises(JudgeGone, match="not an answer of Olla"):
            judge_at(address)


class Odd(QuietHandler):
    """Has the model, but its HTTP replies are malformed."""

    def do_GET(self) -> None:
        tag = {"model": "llama3", "digest": "ab", "version": "1"}
        self.reply(json.dumps({"models": [tag], "version": "1"}).encode())

    def do_POST(self) -> None:
        self.reply({b"gzip": b"no gzip", b"deep": b"[" * 100_000, b"half": HALF}[self.kind()])

    def kind(self) -> bytes:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body["messages"][0]["content"].encode()

    def reply(self, data: bytes) -> None:
        self.send_response(200)
        if data == b"no gzip":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


HALF = b'{"message": {"role": "assistant", "content": "\\ud83d"}}'


def test_malformed_replies_are_errors_of_their_prompts(tmp_path):
    with serving(tmp_path, Odd) as address:
        for kind in ("gzip", "deep", "half"):
            judge = judge_at(address, patience=0.5)
            (judged,) = judgements([Task(1, "sum", "base", kind)], judge, tmp_path / kind)
            assert judged.status in ("error", "invalid")


@pytest.mark.parametrize("fault", ["", "old"])
def test_a_prompt_longer_than_the_context_is_an_error_never_truncated(server, fault):
    judge = judge_at(server)
    server.faults = [fault]
    with pytest.raises(JudgeError, match="exceeds"):
        judge.judge("word " * 2000)
    assert parse_score(judge.judge("word " * 900)) is not None


@pytest.mark.parametrize("response", INJECTIONS.values(), ids=INJECTIONS)
def test_a_request_carries_the_response_inside_its_fence_and_nowhere_else(server, response):
    judge = judge_at(server, n_ctx=100_000)
    prompt = attack(response)
    assert parse_score(judge.judge(prompt)) is not None
    (body,) = server.requests
    assert body.pop("messages") == [{"role": "user", "content": prompt}]
    judge.judge("x")
    assert server.requests[1].items() >= body.items()


def test_kill_9_of_the_server_in_the_middle_and_again(tmp_path):
    port, served, log = free_port(), tmp_path / "served.jsonl", tmp_path / "log.jsonl"
    arguments = ["--port", port, "--served", served]
    for at_least in (10, 30):
        with running("tests.fake_ollama", *arguments, "--delay", "0.002") as process:
            judge = judge_at(f"127.0.0.1:{port}", concurrency=3, patience=0.5)
            with pytest.raises(UserError, match=r"of 120 judgements are finished and kept"):
                for judgement in judgements(tasks(120), judge, log):
                    if judgement.id == at_least:
                        process.kill()
                        process.wait()
        finished = {json.loads(line)["key"] for line in lines_of(log)}
        assert at_least < len(finished) < 120
    served.unlink()
    with running("tests.fake_ollama", *arguments):
        judge = judge_at(f"127.0.0.1:{port}", concurrency=3)
        resumed = list(judgements(tasks(120), judge, log))
    again = {cache_key(judge, json.loads(line)) for line in lines_of(served)}
    assert not again & finished
    assert len(again) + len(finished) == 120
    assert counts(resumed) == {"n_total": 120, "scored": 120, "invalid": 0, "error": 0}
    assert [judgement.reply for judgement in resumed] == [
        similarity(task.prompt) for task in tasks(120)
    ]
