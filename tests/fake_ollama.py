"""A server with Ollama's documented API (docs/api.md, server/routes.go), without a model.

It scores by a rule: the similarity of a prompt's answer and reference. To run it as a process, on
the port that clients expect:

    python -m tests.fake_ollama --port 11434 --model llama3
"""

import argparse
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER = re.compile(r"Correct answer:\n(.*)\n\nStudent's answer:\n(<<\w+>>)\n(.*)\n\2\n", re.DOTALL)

REPLIES = {
    "prose": "The answer deserves a score of 95.",
    "fraction": "95/100",
    "huge": "1e9",
    "empty": "",
    "schema": '{"grade": 5}',
    "spaced": '{\n\n \t "score"\n :  \n\t 100 \n\n}\n',
    "fenced": '```json\n{"score": 90}\n```',
    "reasoned": "<think>Equal.</think>80.0",
    "unfinished": "<think>Equal, so 100",
}
"""Replies of the model that are faulty, or unusual forms of a score."""
FAULTS = (
    *("missing", "busy", "crash", "hang", "die", "cut", "error_in_200", "garbage", "old"),
    *REPLIES,
)
"""All faults of an answer to ``/api/chat``; "old" servers do not know ``truncate``."""


def similarity(prompt: str) -> str:
    """A score for the similarity of answer and reference; for any other prompt, from a hash."""
    if match := ANSWER.search(prompt):
        ratio = SequenceMatcher(None, match[1], match[3], autojunk=False).ratio()
        return json.dumps({"score": round(100 * ratio)})
    return json.dumps({"score": int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 101})


class FakeOllama(ThreadingHTTPServer):
    """A running server that records its requests in ``requests`` and ``served``."""

    daemon_threads = True

    def __init__(
        self,
        port: int = 0,
        model: str = "llama3",
        version: str = "0.13.5",
        rule: Callable[[str], str] = similarity,
        delay: float = 0.0,
        queue: int = 512,
        served: Path | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model = model if ":" in model else f"{model}:latest"
        self.digest = hashlib.sha256(self.model.encode()).hexdigest()
        self.version, self.rule, self.delay, self.queue = version, rule, delay, queue
        self.served = served
        """File with a JSON string per line: each prompt, written just before its reply is sent."""
        self.faults: list[str] = []
        """Faults of the next requests to ``/api/chat``."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the requests to ``/api/chat``."""
        self.waiting = 0
        self.lock = threading.Lock()
        self.runner = threading.Lock()  # as with OLLAMA_NUM_PARALLEL=1

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving_ollama(**settings: Any) -> Iterator[FakeOllama]:
    """Run a server in this process while the block runs."""
    with FakeOllama(**settings) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: FakeOllama

    def do_GET(self) -> None:
        match self.path:
            case "/":
                self._send(200, b"Ollama is running", "text/plain; charset=utf-8")
            case "/api/version":
                self._json(200, {"version": self.server.version})
            case "/api/tags":
                self._json(200, {"models": [self._tag()]})
            case _:
                self._send(404, b"404 page not found", "text/plain")

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/api/chat":
            self._send(404, b"404 page not found", "text/plain")
        elif not data:
            self._error(400, "missing request body")
        else:
            try:
                body = json.loads(data)
            except ValueError as error:
                self._error(400, str(error))
            else:
                self._chat(body)

    def log_message(self, *_: object) -> None:
        pass

    def _chat(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.requests.append(body)
            fault = server.faults.pop(0) if server.faults else ""
            full = server.waiting > server.queue
            server.waiting += 1
        try:
            if fault == "missing" or server.model not in (body["model"], f"{body['model']}:latest"):
                self._error(404, f"model '{body['model']}' not found")
            elif fault == "busy" or full:
                self._error(
                    503, "server busy, please try again.  maximum pending requests exceeded"
                )
            elif fault == "crash":
                self._error(500, "llama runner process has terminated: exit status 2")
            elif fault == "error_in_200":
                self._error(200, "an error was encountered while running the model: EOF")
            elif fault == "garbage":
                self._send(200, b"<html>It works!</html>", "text/html")
            elif fault == "hang":
                time.sleep(3600)
            elif fault == "die":
                self.close_connection = True
            else:
                with server.runner:
                    time.sleep(server.delay)
                    self._complete(body, fault)
        finally:
            with server.lock:
                server.waiting -= 1

    def _complete(self, body: dict[str, Any], fault: str) -> None:
        format_, options = body.get("format", ""), body.get("options", {})
        if not (format_ in ("", "json") or isinstance(format_, dict)):
            self._error(500, f'invalid format: {format_!r}; expected "json" or a valid JSON Schema')
            return
        prompt = "\n".join(message["content"] for message in body["messages"])
        length, context = len(_tokens(prompt)), options.get("num_ctx", 4096)
        if length >= context and body.get("truncate", True) is False and fault != "old":
            self._error(400, "the input length exceeds the context length")
            return
        reply = _tokens(REPLIES.get(fault) if fault in REPLIES else self.server.rule(prompt))
        most = options.get("num_predict", -1)
        cut = 0 <= most < len(reply)
        answer = {
            "model": body["model"],
            "created_at": "2026-01-01T00:00:00.0Z",
            "message": {"role": "assistant", "content": "".join(reply[:most] if cut else reply)},
            "done": True,
            "done_reason": "length" if cut else "stop",
            "total_duration": 3,
            "load_duration": 1,
            "prompt_eval_count": min(length, context),
            "prompt_eval_duration": 1,
            "eval_count": min(len(reply), most) if cut else len(reply),
            "eval_duration": 1,
        }
        if fault == "cut":
            data = json.dumps(answer).encode()
            self._headers(200, len(data), "application/json; charset=utf-8")
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif body.get("stream", True):
            first = {**answer, "done": False}
            last = {**answer, "message": {"role": "assistant", "content": ""}}
            lines = "".join(json.dumps(part) + "\n" for part in (first, last))
            self._send(200, lines.encode(), "application/x-ndjson")
        else:
            if self.server.served:
                with self.server.lock, self.server.served.open("a") as file:
                    file.write(json.dumps(prompt) + "\n")
            self._json(200, answer)

    def _tag(self) -> dict[str, object]:
        return {
            "name": self.server.model,
            "model": self.server.model,
            "modified_at": "2026-01-01T00:00:00.0Z",
            "size": 4_661_224_676,
            "digest": self.server.digest,
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "8.0B",
                "quantization_level": "Q4_0",
            },
        }

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": message})

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), "application/json; charset=utf-8")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self._headers(status, len(data), kind)
        self.wfile.write(data)

    def _headers(self, status: int, length: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _tokens(text: str) -> list[str]:
    """Words, spaces and punctuation: about as many as a model's tokens."""
    return re.findall(r"\w+|\s+|[^\w\s]", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--model", default="llama3")
    parser.add_argument("--version", default="0.13.5")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds a reply takes")
    parser.add_argument("--queue", type=int, default=512, help="requests that may wait")
    parser.add_argument("--served", type=Path, help="file that gets each prompt replied to")
    parser.add_argument(
        "--fault", choices=FAULTS, action="append", default=[], help="of the next request"
    )
    arguments = vars(parser.parse_args())
    faults = arguments.pop("fault")
    with FakeOllama(**arguments) as server:
        server.faults += faults
        print(f"Listening on {server.address}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
