"""Differences between OpenAI-compatible servers, and rate limits of any server."""

import json
import time
from email.utils import formatdate
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest

from gpt2.evaluation.judge.backends.ollama import OllamaJudge
from gpt2.evaluation.judge.backends.openai_compatible import PROBE, OpenAICompatibleJudge
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams, OpenAIParams
from gpt2.evaluation.judge.protocol import JudgeError, JudgeGone, has_reasoning, parse_score
from gpt2.evaluation.judge.runner import judgements
from gpt2.evaluation.judge.tasks import Task
from gpt2.evaluation.judge.verdict_log import cache_key
from tests.file_server import QuietHandler
from tests.proxy_server import proxying

SCORE = '{"score": 80}'


class Server(ThreadingHTTPServer):
    """A server with one model. Attributes set how it differs from others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = (200, {"data": [{"id": "m"}]})
        self.message: dict[str, object] = {"content": SCORE}
        self.refusals: dict[str, tuple[int, object]] = {}
        """Status and body of the answer to requests with a parameter, by its name."""
        self.limits: list[tuple[int, str | None]] = []
        """Status and ``Retry-After`` of the next answers."""
        self.bodies: list[dict[str, object]] = []
        self.times: list[float] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def sent(self) -> list[set[str]]:
        """The parameters of each request."""
        return [set(body) - {"model", "messages"} for body in self.bodies]


class Handler(QuietHandler):
    server: Server

    def do_GET(self) -> None:
        if self.limits():
            return
        if self.path.startswith("/api/"):
            tags = [{"model": "m:latest", "digest": "ab"}]
            self.reply(200, {"models": tags, "version": "1"})
        else:
            self.reply(*self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.times.append(time.monotonic())
        if self.limits():
            return
        for name, (status, value) in self.server.refusals.items():
            if name in body:
                self.reply(status, value)
                return
        message = {"role": "assistant", **self.server.message}
        self.reply(200, {"choices": [{"message": message}], "message": message})

    def limits(self) -> bool:
        """Answer with the next limit, if there is one."""
        if not self.server.limits:
            return False
        status, retry_after = self.server.limits.pop(0)
        fields = {} if retry_after is None else {"Retry-After": retry_after}
        self.reply(status, {"error": {"message": "slow down"}}, fields)
        return True

    def reply(self, status: int, value: object, fields: dict[str, str] | None = None) -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (fields or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    with Server() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def judge_at(server: Server, **settings: object) -> OpenAICompatibleJudge:
    values = {"base_url": server.address, "model": "m", "patience": 0.5, **settings}
    return OpenAICompatibleJudge(OpenAIParams(backend="openai", **values), LlamaEvalParams())


def openais(message: str, name: str, code: str) -> tuple[int, object]:
    kind = "invalid_request_error"
    return 400, {"error": {"message": message, "type": kind, "param": name, "code": code}}


NEWER_NAME = openais(
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "max_tokens",
    "unsupported_parameter",
)
FIXED_TEMPERATURE = openais(
    "Unsupported value: 'temperature' does not support 0.0 with this model. "
    "Only the default (1) value is supported.",
    "temperature",
    "unsupported_value",
)
UNKNOWN_SEED = [
    (400, {"error": {"message": "Unrecognized request argument supplied: seed"}}),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 123,
                       "msg": "Extra inputs are not permitted"}]}),
    (400, {"message": "property 'seed' is unsupported", "max_tokens": 16}),
    (400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]),
    (400, "this model doesn't support seed"),
    (400, {"error": "invalid seed: only 1 is allowed for this model"}),
]  # fmt: skip


def test_a_server_gets_all_parameters_that_it_supports(server):
    judge = judge_at(server)
    assert judge.judge("x") == SCORE
    assert server.sent == [{"max_tokens", "temperature", "seed", "response_format"}] * 2
    assert server.bodies[0]["messages"][0]["content"] == PROBE
    assert judge.options["max_tokens"] == 16
    assert judge.options["temperature"] == 0


def test_max_tokens_is_sent_under_its_newer_name(server):
    server.refusals = {"max_tokens": NEWER_NAME}
    judge = judge_at(server)
    assert judge.judge("x") == SCORE
    assert server.bodies[-1]["max_completion_tokens"] == 16
    assert server.sent[-1] == {"max_completion_tokens", "temperature", "seed", "response_format"}
    assert judge.options["max_completion_tokens"] == 16
    assert "max_tokens" not in judge.options


def test_a_reasoning_model_of_openai_supports_few_parameters(server, caplog, tmp_path):
    plain = cache_key(judge_at(server), "x")
    server.refusals = {"max_tokens": NEWER_NAME, "temperature": FIXED_TEMPERATURE}
    judge = judge_at(server)
    tasks = [Task(n, "sum", "base", f"How good is {n}?") for n in range(3)]
    judged = list(judgements(tasks, judge, tmp_path / "log"))
    assert [judgement.score for judgement in judged] == [80] * 3
    assert judge.options["temperature"] is None
    assert judge.options["seed"] == 123
    assert server.sent[-1] == {"max_completion_tokens", "seed", "response_format"}
    assert len(server.bodies) == 1 + 3 + 3  # a judge that gets all; three attempts; three prompts
    assert "Only the default (1) value is supported" in caplog.text
    assert "llama3_eval.temperature is not sent" in caplog.text
    assert cache_key(judge, "x") == cache_key(judge_at(server), "x") != plain


@pytest.mark.parametrize("refusal", UNKNOWN_SEED)
def test_a_refused_seed_is_not_sent_for_any_error_message(server, refusal):
    server.refusals = {"seed": refusal}
    judge = judge_at(server)
    assert judge.judge("x") == SCORE
    assert judge.options["seed"] is None
    assert judge.options["temperature"] == 0


def test_an_unsupported_reply_format_is_named(server):
    server.refusals = {"response_format": (400, "'response_format' json_schema is not supported")}
    with pytest.raises(JudgeGone, match=r"supported\nChange judge\.structured"):
        judge_at(server).judge("x")
    assert judge_at(server, structured="none").judge("x") == SCORE


@pytest.mark.parametrize(
    ("name", "message", "key"),
    [
        ("temperature", "temperature must be strictly positive", "llama3_eval.temperature"),
        ("max_tokens", "max_tokens: at least 64", "llama3_eval.max_tokens"),
        ("seed", "seed: a number of 64 bits", "llama3_eval.seed"),
        ("model", "max_completion_tokens: at least 64", "llama3_eval.max_tokens"),
    ],
)
def test_a_value_that_the_server_rejects_is_named(server, name, message, key):
    server.refusals = {name: (422, {"detail": message})}
    if name == "model":
        server.refusals = {"max_tokens": NEWER_NAME, **server.refusals}
    with pytest.raises(JudgeGone, match=rf"{message}.*\nChange {key}"):
        judge_at(server).judge("x")


def test_the_newer_name_in_an_error_message_is_enough(server):
    server.refusals = {"max_tokens": (400, "max_tokens: set max_completion_tokens")}
    assert judge_at(server).judge("x") == SCORE


def test_an_error_about_the_prompt_is_not_a_refused_parameter(server):
    judge = judge_at(server)
    assert judge.options["temperature"] == 0
    server.refusals = {"temperature": (400, "unsupported character in 'the temperature and seed'")}
    with pytest.raises(JudgeError, match="unsupported character"):
        judge.judge("x")
    assert judge.options["temperature"] == 0


@pytest.mark.parametrize(
    "failure", [(500, "oops"), (200, "<html>"), (400, "the model is too warm")]
)
def test_a_failing_server_does_not_change_the_options(server, failure):
    expected = judge_at(server).options
    server.refusals = {"seed": failure}
    judge = judge_at(server)
    assert judge.options == expected
    with pytest.raises(JudgeError):
        judge.judge("x")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_a_list_of_models(server, status, caplog):
    listed = judge_at(server).digest
    server.models = (status, {"error": "no such page"})
    with caplog.at_level("INFO"):
        judge = judge_at(server)
    assert "m is identified by its name" in caplog.text
    assert judge.judge("x") == SCORE
    assert judge.digest == judge_at(server).digest != listed
    assert judge.digest != judge_at(server, model="n").digest
    server.refusals = {"model": (404, {"error": {"message": "no model m"}})}
    with pytest.raises(JudgeGone, match="no model m"):
        judge_at(server)


@pytest.mark.parametrize("answer", [(500, "oops"), (503, "busy"), (200, "<html>"), (200, {})])
def test_a_failing_list_of_models_is_not_a_missing_one(server, answer):
    server.models = answer
    with pytest.raises(JudgeGone):
        judge_at(server)


THOUGHT = "Equal, so 100? No."


@pytest.mark.parametrize(
    ("message", "score", "reasoned"),
    [
        ({"content": f"<think>{THOUGHT}</think>\n{SCORE}"}, 80, True),
        ({"content": f"```json\n{SCORE}\n```"}, 80, False),
        ({"content": '{"score": 80.0}'}, 80, False),
        ({"content": SCORE, "reasoning_content": THOUGHT}, 80, True),
        ({"content": SCORE, "reasoning": THOUGHT}, 80, True),
        ({"content": SCORE, "reasoning_content": None, "reasoning": ""}, 80, False),
        ({"content": "", "reasoning_content": "100"}, None, True),
        ({"content": None, "reasoning": SCORE}, None, True),
        ({"content": None}, None, False),
        ({"content": f"<think>{THOUGHT} 80"}, None, False),
        ({"content": [{"type": "text", "text": SCORE}]}, 80, False),
        ({"content": [{"type": "text", "text": '{"score"'}, {"text": ": 80}"}]}, 80, False),
        ({"content": ["8", "0"]}, 80, False),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                      {"type": "text", "text": SCORE}]}, 80, True),
        ({"content": [{"type": "reasoning", "text": THOUGHT},
                      {"type": "output_text", "text": SCORE}]}, 80, True),
        ({"content": [{"type": "image_url", "image_url": {"url": "80"}}]}, None, False),
        ({"content": []}, None, False),
        ({"content": {"text": SCORE}}, 80, False),
    ],
)  # fmt: skip
def test_replies_in_every_form(server, message, score, reasoned):
    server.message = message
    reply = judge_at(server).judge("x")
    assert parse_score(reply) == score
    assert has_reasoning(reply) == reasoned
    if reasoned and message["content"]:
        assert THOUGHT in reply


def test_ollamas_reasoning_is_separated_from_the_score(server):
    server.message = {"content": SCORE, "thinking": THOUGHT}
    assert ollama_at(server).judge("x") == f"<think>{THOUGHT}</think>{SCORE}"


def ollama_at(server: Server, patience: float = 5.0) -> OllamaJudge:
    params = OllamaParams(backend="ollama", model="m", host=server.address, patience=patience)
    return OllamaJudge(params, LlamaEvalParams())


@pytest.mark.parametrize("kind", ["openai", "ollama"])
@pytest.mark.parametrize(
    ("status", "form"), [(429, "seconds"), (429, "date"), (503, "date"), (529, "fraction")]
)
def test_retry_after_is_respected(server, kind, status, form):
    judge = judge_at(server, patience=5.0) if kind == "openai" else ollama_at(server)
    assert judge.options
    server.times.clear()
    in_two_seconds = formatdate(time.time() + 2, usegmt=True)
    server.limits = [(status, {"seconds": "1", "date": in_two_seconds, "fraction": "0.9"}[form])]
    assert judge.judge("x") == SCORE
    first, second = server.times
    assert 0.8 < second - first < 3


@pytest.mark.parametrize("kind", ["openai", "ollama"])
@pytest.mark.parametrize("retry_after", ["60", formatdate(time.time() + 3600, usegmt=True)])
def test_a_too_long_retry_after_ends_the_run(server, kind, retry_after):
    judge = judge_at(server, patience=2.0) if kind == "openai" else ollama_at(server, 2.0)
    assert judge.options
    server.limits = [(429, retry_after)]
    began = time.monotonic()
    with pytest.raises(
        JudgeGone, match=r"slow down.*\nIt asks to wait \d+ s; judge.patience is 2 s"
    ):
        judge.judge("x")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_rate_limits_at_the_start_are_respected(server, kind):
    server.limits = [(429, "1"), (503, None)]
    began = time.monotonic()
    judge = judge_at(server, patience=5.0) if kind == "openai" else ollama_at(server)
    assert 1 < time.monotonic() - began < 4
    assert judge.judge("x") == SCORE


@pytest.mark.parametrize("retry_after", ["soon", "-5", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_invalid_retry_after_is_ignored(server, retry_after):
    judge = judge_at(server, patience=2.0)
    server.limits = [(429, retry_after)]
    assert judge.judge("x") == SCORE


def test_the_probe_finds_refusals_of_a_proxy(server, monkeypatch):
    """A gateway in front of the server refuses some parameters."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.refusals = {"max_tokens": NEWER_NAME}
    with proxying(server.address) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        judge = judge_at(server, base_url="http://judge.example")
        assert judge.judge("x") == SCORE
        assert judge.options["max_completion_tokens"] == 16
