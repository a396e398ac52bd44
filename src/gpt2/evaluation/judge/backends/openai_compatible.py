"""A judge behind any server with OpenAI's chat completions API: vLLM, llama.cpp, LM Studio."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
from gpt2.evaluation.judge.params import LlamaEvalParams, OpenAIParams
from gpt2.evaluation.judge.protocol import SCHEMA, JudgeError, JudgeGone, with_reasoning

if TYPE_CHECKING:
    from openai import DefaultHttpxClient

log = logging.getLogger(__name__)

STABLE = ("id", "owned_by", "root", "meta")
"""Fields of ``/v1/models`` that describe the model. Others may change from call to call."""
FORMATS: Mapping[str, dict[str, Any]] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "score", "strict": True, "schema": SCHEMA},
    },
    "json_object": {"type": "json_object"},
}
PROBE = 'Reply with JSON only: {"score": 0}'
"""A prompt to find out whether the server refuses a parameter of the request."""
NO_LIST = (404, 405, 501)
"""HTTP statuses of a server without ``/v1/models``."""
NEWER_NAME = "max_completion_tokens"
"""The newer name of ``max_tokens``, which OpenAI's own reasoning models require."""
KEYS = {"response_format": "judge.structured", NEWER_NAME: "llama3_eval.max_tokens"}
"""Where a request's parameter is set in params.yaml, if not as ``llama3_eval.<its name>``."""
HINTS = {401: ". Is judge.api_key_env right?", 403: ". Is judge.api_key_env right?"}
REFUSED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|deprecated"
    r"|(?:not|n't)(?: be)? (?:support|permit|allow|accept|available)"
    r"|only [\w.]+ is (?:support|allow|accept)",
    re.IGNORECASE,
)
"""Words in the error message of a server that does not support a parameter."""


class OpenAICompatibleJudge:
    """A model that is identified by its name and by the server's description of it.

    This is weaker than a digest of the weights: if a server replaces them under the same name, it
    goes unnoticed. So `options` include the address, and the parameters that the server supports.

    Raises:
        JudgeGone: no server answers, it refuses the key, or it has no such model.
    """

    def __init__(self, params: OpenAIParams, evaluation: LlamaEvalParams) -> None:
        import openai

        self._model, self._address = params.model, params.base_url.rstrip("/")
        self._timeout, self._key = params.timeout, _key(params.api_key_env)
        self._retries = Retries(params.patience)
        self._proxy = proxy_for(self._address)
        self._client = openai.OpenAI(
            base_url=self._address,
            api_key=self._key,
            timeout=params.timeout,
            max_retries=0,
            http_client=_http_client(self._proxy),
        )
        self._wanted = evaluation.model_dump(include={"max_tokens", "temperature", "seed"})
        if params.structured in FORMATS:
            self._wanted["response_format"] = FORMATS[params.structured]
        self.concurrency = params.concurrency
        self.digest = self._identify()

    @property
    def options(self) -> Mapping[str, object]:
        """Everything else that a reply depends on; null: a parameter that the server refuses."""
        return {
            "engine": f"openai {self._address}",
            "concurrency": self.concurrency,
            **self._sampling,
        }

    def judge(self, prompt: str) -> str:
        """The reply to ``prompt``, sent as a user message with the model's own chat template."""
        return self._retries.reply(lambda: self._chat(prompt, self._sampling))

    @cached_property
    def _sampling(self) -> dict[str, Any]:
        """The parameters of a request that the server supports, found by trying them."""
        sampling = dict(self._wanted)
        while complaint := self._complaint(sampling):
            name, message = complaint
            refused = REFUSED.search(message) is not None
            if name == "max_tokens" and (refused or NEWER_NAME in message):
                sampling = {NEWER_NAME: sampling.pop(name), **sampling}
            elif name in ("temperature", "seed") and refused:
                log.warning("%s\nSo llama3_eval.%s is not sent", message, name)
                sampling[name] = None
            else:
                raise JudgeGone(f"{message}\nChange {KEYS.get(name, f'llama3_eval.{name}')}")
        return sampling

    def _complaint(self, sampling: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first parameter that the server's error message names, and this message.

        None: it accepts them all, or fails for another reason, which the real prompts will show.
        """
        try:
            self._retries.retry(lambda: self._chat(PROBE, sampling))
        except JudgeError as error:
            sent = "|".join(name for name, value in sampling.items() if value is not None)
            named = re.search(rf"\b({sent})\b", str(error))
            return (named[1], str(error)) if named else None
        except Fault:
            return None
        return None

    def _chat(self, prompt: str, sampling: Mapping[str, Any]) -> str:
        with self._errors(self._timeout):
            reply = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                **{name: value for name, value in sampling.items() if value is not None},
            )
            return _text(reply.choices[0].message)

    def _identify(self) -> str:
        """sha256 of the server's description of the model."""
        models = self._retries.identity(self._models)
        if models is None:
            self._check_reply()
            return _digest({"id": self._model})
        if self._model not in models:
            there = ", ".join(sorted(models)) or "none"
            raise JudgeGone(
                f"judge.model: {self._address} has no model {self._model} (it has: {there})"
            )
        known = {key: models[self._model].get(key) for key in STABLE}
        return _digest(known)

    def _models(self) -> dict[str, dict[str, Any]] | None:
        """The server's description of its models, by name; None: it has no such list."""
        import openai

        with self._errors(PROBE_TIMEOUT):
            try:
                page = self._client.models.list(timeout=PROBE_TIMEOUT)
            except openai.APIStatusError as error:
                if error.status_code in NO_LIST:
                    return None
                raise
            return {model.id: model.model_dump(mode="json") for model in page.data}

    def _check_reply(self) -> None:
        """Check that a server without a list of models replies, and has this model."""
        try:
            self._retries.identity(lambda: self._chat(PROBE, self._sampling))
        except JudgeGone as error:
            raise JudgeGone(
                f"{self._address} has no list of models (/models: status 404, 405 or 501), and: "
                f"{error}. Is judge.base_url right?"
            ) from error
        log.info(
            "%s has no list of models: %s is identified by its name", self._address, self._model
        )

    @contextmanager
    def _errors(self, timeout: float) -> Iterator[None]:
        """Translates the client's exceptions, and removes the API key from messages."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            status, answer = error.status_code, error.response
            text = one_line(answer.text.replace(self._key, "(key)"))
            message = f"{self._address}: status {status}, {text}{HINTS.get(status, '')}"
            raise error_of(status, message, answer.headers) from None
        except openai.APITimeoutError as error:
            raise Fault(f"{self._address}: no answer within {timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise Unreachable(
                f"judge.base_url: no server answers at {self._address}{via_proxy(self._proxy)}. "
                "Start it, or name another"
            ) from error
        # What the client raises for malformed answers.
        except (
            *(ValueError, TypeError, AttributeError, IndexError, RecursionError),
            openai.APIError,
        ) as error:
            raise Fault(f"{self._address}: not an answer of OpenAI's protocol ({error})") from error


def _http_client(proxy: str | None) -> "DefaultHttpxClient":
    """A client that uses ``proxy``, or none, whatever the environment says."""
    import httpx2  # what openai runs on
    import openai

    limits = openai.DEFAULT_CONNECTION_LIMITS
    return openai.DefaultHttpxClient(transport=httpx2.HTTPTransport(proxy=proxy, limits=limits))


def _digest(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _text(message: Any) -> str:
    """The reply in a message, preceded by its reasoning, for which servers have two names."""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return with_reasoning(_content_text(reasoning), _content_text(message.content))


def _content_text(content: object) -> str:
    """Content as text; it may be a list of parts with text or reasoning."""
    match content:
        case str():
            return content
        case [*parts]:
            return "".join(map(_content_text, parts))
        case {"type": "thinking" | "reasoning", "thinking": thoughts} | {
            "type": "thinking" | "reasoning",
            "text": thoughts,
        }:
            return with_reasoning(_content_text(thoughts), "")
        case {"text": str(text)}:
            return text
    return ""


def _key(variable: str | None) -> str:
    if variable is None:
        return "no-key-needed"  # the client requires a key, and would send OPENAI_API_KEY
    if not os.environ.get(variable):
        raise JudgeGone(f"judge.api_key_env: the environment variable {variable} is not set")
    return os.environ[variable]
