"""Judges behind a server, with a proxy in the environment: all requests use the same route."""

import json
import os
import subprocess
import sys

import pytest

from gpt2.evaluation.judge.backends.ollama import OllamaJudge
from gpt2.evaluation.judge.backends.openai_compatible import OpenAICompatibleJudge
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams, OpenAIParams
from gpt2.evaluation.judge.protocol import Judge, JudgeGone
from tests.fake_ollama import serving_ollama, similarity
from tests.file_server import QuietHandler, serving
from tests.gpt2.evaluation.judge.servers import free_port
from tests.proxy_server import proxying

ELSEWHERE = "http://judge.example"
"""A host that only the proxy can reach."""


class OpenAI(QuietHandler):
    """A server with one model."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "llama3"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = similarity(body["messages"][0]["content"])
        self.reply({"choices": [{"message": {"content": content}}]})

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(params=["ollama", "openai"])
def kind(request):
    return request.param


@pytest.fixture
def server(kind, tmp_path):
    """The address of a judge's server."""
    if kind == "ollama":
        with serving_ollama() as server:
            yield server.address
    else:
        with serving(tmp_path, OpenAI) as address:
            yield address


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def judge_at(kind: str, address: str) -> Judge:
    if kind == "ollama":
        params = OllamaParams(backend="ollama", host=address, patience=0.6)
        return OllamaJudge(params, LlamaEvalParams(max_tokens=64))
    settings = {"model": "llama3", "base_url": address, "patience": 0.6}
    return OpenAICompatibleJudge(OpenAIParams(backend="openai", **settings), LlamaEvalParams())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_local_server_is_reached_without_a_proxy(kind, server, monkeypatch, variable):
    plain = judge_at(kind, server)
    expected = (plain.digest, plain.options, plain.judge("How good?"))
    with proxying(server) as proxy:
        proxy.refused = ("/api/version", "/api/tags", "/models", "/chat/completions")
        for value in (proxy.address, f"http://127.0.0.1:{free_port()}", "socks5://127.0.0.1:1080"):
            monkeypatch.setenv(variable, value)
            judge = judge_at(kind, server)
            assert (judge.digest, judge.options, judge.judge("How good?")) == expected
        assert proxy.requests == []


ASK = """
import os, sys
from tests.gpt2.evaluation.judge.backends.test_proxies import judge_at
before = dict(os.environ)
print(judge_at(*sys.argv[1:]).judge("How good?"))
assert os.environ == before
"""


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "ftp://proxy", "http://"])
def test_a_proxy_does_not_disturb_the_start_of_a_process(kind, server, proxy):
    """The clients' packages read the environment at their import."""
    search = os.pathsep.join(sys.path)
    answer = subprocess.run(
        [sys.executable, "-c", ASK, kind, server],
        env={**os.environ, "PYTHONPATH": search, "ALL_PROXY": proxy, "NO_PROXY": "judge.example"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout == similarity("How good?") + "\n", answer.stderr


def test_a_remote_server_is_reached_only_through_the_proxy(kind, server, monkeypatch):
    with proxying(server) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        judge = judge_at(kind, ELSEWHERE)
        assert judge.judge("How good?") == similarity("How good?")
        assert judge.digest == judge_at(kind, server).digest
    asked = {
        "ollama": ["GET /api/tags", "GET /api/version", "POST /api/chat"],
        "openai": ["GET /models", "POST /chat/completions", "POST /chat/completions"],
    }[kind]
    assert proxy.requests == [request.replace(" ", " judge.example ") for request in asked]


def test_no_proxy_is_respected(kind, server, monkeypatch):
    with proxying(server) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        monkeypatch.setenv("NO_PROXY", "judge.example")
        with pytest.raises(JudgeGone, match="server answers at"):
            judge_at(kind, ELSEWHERE)
        assert proxy.requests == []


def test_an_unreachable_proxy_is_named_without_its_password(kind, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(JudgeGone, match=r"through the proxy http://127\.0\.0\.1:\d+\)") as caught:
        judge_at(kind, ELSEWHERE)
    assert "secret" not in str(caught.value)


def test_a_socks_proxy_is_named(kind, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(JudgeGone, match=r"judge: .*socks5://127.*pip install socksio"):
        judge_at(kind, ELSEWHERE)


@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
def test_ollamas_identity_is_complete_or_an_error(monkeypatch, path):
    with serving_ollama() as server, proxying(server.address) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        proxy.refused = (path,)
        with pytest.raises(JudgeGone, match=r"through the proxy .*status 503"):
            judge_at("ollama", ELSEWHERE)
        assert proxy.requests.count(f"GET judge.example {path}") > 1
        proxy.refused = ()
        assert judge_at("ollama", ELSEWHERE).options["engine"] == f"ollama {server.version}"


def test_an_empty_version_is_refused():
    with serving_ollama(version="") as server, pytest.raises(JudgeGone, match="its version is ''"):
        judge_at("ollama", server.address)


def test_a_list_of_models_that_is_refused_once_is_not_a_missing_one(tmp_path, monkeypatch):
    with serving(tmp_path, OpenAI) as server, proxying(server) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        proxy.refused = ("/models",)
        with pytest.raises(JudgeGone, match="503"):
            judge_at("openai", ELSEWHERE)
