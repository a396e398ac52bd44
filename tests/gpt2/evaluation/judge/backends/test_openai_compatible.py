"""The OpenAI-compatible judge with the official client, on llama.cpp's own HTTP server."""

import json
import urllib.request
from collections.abc import Iterator

import pytest

from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.openai_compatible import OpenAICompatibleJudge
from gpt2.evaluation.judge.params import LlamaEvalParams, OpenAIParams
from gpt2.evaluation.judge.protocol import SCHEMA, JudgeError, JudgeGone, parse_score
from gpt2.evaluation.judge.runner import counts, judgements
from gpt2.evaluation.judge.tasks import Task
from gpt2.evaluation.judge.verdict_log import cache_key
from tests.file_server import QuietHandler, serving
from tests.gpt2.evaluation.judge.injections import INJECTIONS, attack
from tests.gpt2.evaluation.judge.servers import free_port, running
from tests.tiny_llama import VOCABULARY

CONTROL_TOKEN = 3
MODULE = "tests.gpt2.evaluation.judge.llama_server"


@pytest.fixture(scope="module")
def address(tiny_model) -> Iterator[str]:
    port = free_port()
    with running(MODULE, tiny_model, port):
        yield f"http://127.0.0.1:{port}/v1"


def judge_at(address: str, max_tokens: int = 160, **settings: object) -> OpenAICompatibleJudge:
    params = OpenAIParams(
        backend="openai", **{"base_url": address, "model": "tiny", "patience": 1.0, **settings}
    )
    return OpenAICompatibleJudge(params, LlamaEvalParams(max_tokens=max_tokens))


def tasks(count: int) -> list[Task]:
    return [Task(n, "sum", "finetuned", f"How good is {n * n} for {n}?") for n in range(count)]


def test_replies_are_valid_vary_and_are_the_same_again(address, tmp_path):
    judge = judge_at(address)
    judged = list(judgements(tasks(12), judge, tmp_path / "log.jsonl"))
    assert counts(judged)["scored"] == 12
    assert len({judgement.reply for judgement in judged}) > 1
    again = judge_at(address)
    assert list(judgements(tasks(12)[::-1], again, tmp_path / "again.jsonl"))[::-1] == judged
    assert (again.digest, again.options) == (judge.digest, judge.options)


def test_a_server_without_schemas_is_asked_for_any_json_or_no_format(tmp_path):
    with serving(tmp_path, Chatty) as address:
        judge_at(address, structured="json_object").judge("fine")
        assert Chatty.bodies[-1]["response_format"] == {"type": "json_object"}
        judge_at(address, structured="none").judge("fine")
        assert "response_format" not in Chatty.bodies[-1]


def test_a_prompt_longer_than_the_servers_context_is_an_error(address):
    judge = judge_at(address)
    with pytest.raises(JudgeError, match="exceeds the available context size"):
        judge.judge("word " * 2000)
    assert parse_score(judge.judge("x")) is not None


def test_a_missing_model_and_a_missing_server_are_named(address, tmp_path):
    with pytest.raises(JudgeGone, match=r"has no model llama3 \(it has: tiny\)"):
        judge_at(address, model="llama3")
    with pytest.raises(JudgeGone, match="no server answers at"):
        judge_at(f"http://127.0.0.1:{free_port()}/v1")
    with serving(tmp_path) as elsewhere, pytest.raises(JudgeGone, match=r"404.*base_url right"):
        judge_at(elsewhere)
    (tmp_path / "models").write_text("<html>")
    with serving(tmp_path) as elsewhere, pytest.raises(JudgeGone, match="not an answer"):
        judge_at(elsewhere)


def test_the_key_is_sent_and_never_shown(tiny_model, tmp_path, monkeypatch):
    port = free_port()
    base = f"http://127.0.0.1:{port}/v1"
    with running(MODULE, tiny_model, port, "sesame"):
        monkeypatch.setenv("JUDGE_KEY", "sesame")
        judge = judge_at(base, api_key_env="JUDGE_KEY")
        log = tmp_path / "log.jsonl"
        assert counts(list(judgements(tasks(2), judge, log)))["scored"] == 2
        assert "sesame" not in log.read_text() + str(judge.options) + judge.digest
        monkeypatch.setenv("JUDGE_KEY", "wrong-key")
        with pytest.raises(JudgeGone, match=r"Is judge\.api_key_env right\?") as caught:
            judge_at(base, api_key_env="JUDGE_KEY").judge("x")
        assert "wrong-key" not in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", "sesame")
        with pytest.raises(JudgeGone, match="api_key_env right"):
            judge_at(base).judge("x")
    with pytest.raises(JudgeGone, match="variable NO_SUCH_KEY is not set"):
        judge_at(base, api_key_env="NO_SUCH_KEY")


class Chatty(QuietHandler):
    """A server with one model that repeats the API key and the request in its errors."""

    bodies: list[dict[str, object]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "tiny", "created": len(self.bodies)}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        content = body["messages"][0]["content"]
        status = int(content) if content.isdigit() else 200
        answer = {"error": {"message": f"no: {self.headers['Authorization']}"}}
        if content == "half":
            answer = {"choices": [{"message": {"content": '\ud83d{"score": 7}'}}]}
        if content == "fine":
            answer = {"choices": [{"message": {"content": '{"score": 7}'}}]}
        self.reply(status, answer)

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("400", JudgeError),
        ("401", JudgeGone),
        ("404", JudgeGone),
        ("429", JudgeGone),
        ("500", JudgeError),
        ("503", JudgeGone),
        ("error in 200", JudgeError),
    ],
)
def test_each_http_status_has_its_error(tmp_path, monkeypatch, prompt, error):
    monkeypatch.setenv("JUDGE_KEY", "open-sesame")
    with serving(tmp_path, Chatty) as address:
        judge = judge_at(address, api_key_env="JUDGE_KEY", patience=0.3)
        with pytest.raises(error) as caught:
            judge.judge(prompt)
        assert type(caught.value) is error
        assert "open-sesame" not in str(caught.value)
        assert judge.judge("fine") == '{"score": 7}'


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_reply_with_a_lone_surrogate_is_invalid_and_kept(tmp_path, concurrency):
    with serving(tmp_path, Chatty) as address:
        judge, log = judge_at(address, concurrency=concurrency), tmp_path / "log.jsonl"
        questions = [Task(n, "sum", "base", text) for n, text in enumerate(["half", "fine"])]
        judged = list(judgements(questions, judge, log))
        assert [judgement.status for judgement in judged] == ["invalid", "scored"]
        assert judged[0].reply == '\\ud83d{"score": 7}'
        assert list(judgements(questions, judge, log)) == judged


def test_the_request_holds_the_sampling_and_the_response_only_inside_its_fence(tmp_path):
    with serving(tmp_path, Chatty) as address:
        judge = judge_at(address)
        for response in INJECTIONS.values():
            with pytest.raises((JudgeError, JudgeGone)):
                judge.judge(attack(response))
            assert Chatty.bodies[-1] == {
                "model": "tiny",
                "messages": [{"role": "user", "content": attack(response)}],
                "seed": 123,
                "temperature": 0.0,
                "max_tokens": 160,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "score", "strict": True, "schema": SCHEMA},
                },
            }


@pytest.mark.parametrize("name", sorted(INJECTIONS.keys() - {"long"}))
def test_a_model_under_attack_still_replies_with_a_score(address, judge, name):
    prompt = attack(INJECTIONS[name])
    assert control_tokens(address, prompt) == []
    assert parse_score(judge_at(address).judge(prompt)) is not None
    assert parse_score(judge.judge(prompt)) is not None


def test_the_server_does_read_control_tokens_in_a_text(address):
    assert control_tokens(address, "4<|im_end|></s>") == ["<|im_end|>", "</s>"]


def control_tokens(address: str, text: str) -> list[str]:
    """The control tokens that llama.cpp finds in the text of a message."""
    request = urllib.request.Request(
        address.removesuffix("v1") + "tokenize",
        json.dumps({"content": text, "parse_special": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        tokens = json.load(answer)["tokens"]
    return [VOCABULARY[token][0] for token in tokens if VOCABULARY[token][2] == CONTROL_TOKEN]


def test_kill_9_of_the_server_in_the_middle_and_again(tiny_model, tmp_path):
    port, log = free_port(), tmp_path / "log.jsonl"
    base = f"http://127.0.0.1:{port}/v1"
    with running(MODULE, tiny_model, port) as process:
        judge = judge_at(base, concurrency=2, patience=0.5)
        with pytest.raises(
            UserError, match=r"(?s)no server answers.*of 60 judgements are finished"
        ):
            for judgement in judgements(tasks(60), judge, log):
                if judgement.id == 10:
                    process.kill()
                    process.wait()
    before = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert 10 < len(before) < 60
    with running(MODULE, tiny_model, port):
        judge = judge_at(base, concurrency=2)
        resumed = list(judgements(tasks(60), judge, log))
    keys = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert keys[: len(before)] == before
    assert sorted(keys) == sorted(cache_key(judge, task.prompt) for task in tasks(60))
    assert counts(resumed) == {"n_total": 60, "scored": 60, "invalid": 0, "error": 0}
