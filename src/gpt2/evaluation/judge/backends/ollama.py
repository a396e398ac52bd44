"""A judge behind an Ollama server, as in the tutorial (API: Ollama's docs/api.md)."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpt2.evaluation.judge.backends.servers import (
    PROBE_TIMEOUT,
    Fault,
    Retries,
    Unreachable,
    error_of,
    one_line,
    proxy_for,
    via_proxy,
)
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams
from gpt2.evaluation.judge.protocol import SCHEMA, JudgeError, JudgeGone, with_reasoning

if TYPE_CHECKING:
    from ollama import Client


class OllamaJudge:
    """A model of an Ollama server, with the reply's JSON schema as structured output.

    A prompt that does not fit the context is an error; it is never truncated.

    Raises:
        JudgeGone: no server answers, it has no such model, or does not state its version.
    """

    def __init__(self, params: OllamaParams, evaluation: LlamaEvalParams) -> None:
        self._model, self._address = params.model, params.address
        self._timeout, self._keep_alive = params.timeout, params.keep_alive
        self._retries = Retries(params.patience)
        self._proxy = proxy_for(self._address)
        self._client = _client(self._address, params.timeout, self._proxy)
        self._options = {
            "num_ctx": evaluation.n_ctx,
            "num_predict": evaluation.max_tokens,
            "temperature": evaluation.temperature,
            "seed": evaluation.seed,
        }
        self.concurrency = params.concurrency
        self.digest, engine = self._identify()
        self.options: Mapping[str, object] = {
            "engine": engine,
            "format": SCHEMA,
            "concurrency": params.concurrency,
            **self._options,
        }

    def judge(self, prompt: str) -> str:
        """The reply to ``prompt``, sent as a user message with the model's own chat template."""
        return self._retries.reply(lambda: self._chat(prompt))

    def _chat(self, prompt: str) -> str:
        with self._errors(self._timeout, f"Fetch it: ollama pull {self._model}"):
            reply = self._client.chat(
                self._model,
                [{"role": "user", "content": prompt}],
                stream=False,
                think=False,
                format=SCHEMA,
                options=self._options,
                keep_alive=self._keep_alive,
            )
        # Servers before 0.12.6 ignore "truncate" and cut a long prompt to exactly this length.
        if (reply.prompt_eval_count or 0) >= self._options["num_ctx"]:
            raise JudgeError(f"{self._name}: the prompt exceeds {self._options['num_ctx']} tokens")
        return with_reasoning(reply.message.thinking, reply.message.content or "")

    def _identify(self) -> tuple[str, str]:
        """The model's digest and the server's version."""
        client = _client(self._address, PROBE_TIMEOUT, self._proxy)

        def ask() -> tuple[dict[str | None, str | None], str]:
            with self._errors(PROBE_TIMEOUT, "Is judge.host right?"):
                digests = {model.model: model.digest for model in client.list().models}
                # The client has no method for the version. Another client might not use the proxy.
                answer = client._request_raw("GET", "/api/version")  # type: ignore[no-untyped-call]
                version = answer.json()["version"]
                if not (version and isinstance(version, str)):
                    raise ValueError(f"its version is {version!r}")
                return digests, version

        digests, version = self._retries.identity(ask)
        digest = digests.get(self._model) or digests.get(f"{self._model}:latest")
        if not digest:
            there = ", ".join(sorted(filter(None, digests))) or "none"
            raise JudgeGone(
                f"judge.model: {self._name} has no model {self._model} (it has: {there}). "
                f"Fetch it: ollama pull {self._model}"
            )
        return digest, f"ollama {version}"

    @property
    def _name(self) -> str:
        return f"Ollama at {self._address}{via_proxy(self._proxy)}"

    @contextmanager
    def _errors(self, timeout: float, if_missing: str) -> Iterator[None]:
        """Translates the client's exceptions; ``if_missing`` is the hint for status 404."""
        import httpx
        import ollama

        try:
            yield
        except ollama.ResponseError as error:
            hint = f". {if_missing}" if error.status_code == 404 else ""
            message = f"{self._name}: {one_line(error.error)} (status {error.status_code}){hint}"
            cause = error.__context__  # the original exception, which has the headers
            headers = cause.response.headers if isinstance(cause, httpx.HTTPStatusError) else {}
            raise error_of(error.status_code, message, headers) from error
        except httpx.TimeoutException as error:
            raise Fault(f"{self._name}: no answer within {timeout:g} s") from error
        except (ConnectionError, httpx.TransportError) as error:
            raise Unreachable(
                f"judge.host: no Ollama server answers at {self._address}{via_proxy(self._proxy)}. "
                "Start it: ollama serve"
            ) from error
        except ValidationError as error:
            answer = error.errors()[0]["input"]
            raise Fault(f"{self._name}: not a reply: {answer!r:.300}") from error
        # What the client raises for malformed answers.
        except (
            *(ValueError, TypeError, AttributeError, KeyError, RecursionError),
            httpx.RequestError,  # of its remaining kinds: wrong compression, redirects
        ) as error:
            raise Fault(f"{self._name}: not an answer of Ollama ({error})") from error


def _client(address: str, timeout: float, proxy: str | None) -> "Client":
    """The official client, with two fields in the request that its signature does not have."""
    import httpx

    # At its import the package creates a default client, which fails for some proxies.
    with _environment("no_proxy", "*"):
        import ollama

    class WholePrompt(httpx.HTTPTransport):
        """Tells Ollama to refuse a prompt that does not fit, instead of truncating it."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/api/chat"):
                body = json.loads(request.read()) | {"truncate": False, "shift": False}
                headers = [pair for pair in request.headers.items() if pair[0] != "content-length"]
                request = httpx.Request(
                    request.method,
                    request.url,
                    headers=headers,
                    json=body,
                    extensions=request.extensions,
                )
            return super().handle_request(request)

    # The client passes further arguments to httpx.
    return ollama.Client(address, timeout=timeout, transport=WholePrompt(proxy=proxy))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
