"""A judge behind any endpoint that speaks OpenAI's chat protocol: vLLM, llama.cpp, LM Studio."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gpt2.judge.params import LlamaEvalParams, OpenAIParams
from gpt2.judge.protocol import SCHEMA, JudgeError, JudgeGone
from gpt2.judge.servers import PROBE_TIMEOUT, Busy, Fault, Patience, error_of

STABLE = ("id", "owned_by", "root", "meta")
"""What of ``/v1/models`` describes the model; the rest may change from call to call."""
FORMATS: Mapping[str, dict[str, Any]] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "score", "strict": True, "schema": SCHEMA},
    },
    "json_object": {"type": "json_object"},
}


class OpenAICompatibleJudge:
    """A model known by its name and by what the server says of it.

    That says less than a digest of the weights: a server that swaps them under the same name goes
    unnoticed. So the address is among the options.

    Raises:
        JudgeGone: no server answers, it refuses the key, or it has no such model.
    """

    def __init__(self, params: OpenAIParams, evaluation: LlamaEvalParams) -> None:
        import openai

        self._model, self._address = params.model, params.base_url.rstrip("/")
        self._timeout, self._key = params.timeout, _key(params.api_key_env)
        self._patience = Patience(params.patience)
        self._client = openai.OpenAI(
            base_url=self._address, api_key=self._key, timeout=params.timeout, max_retries=0
        )
        self._sampling = evaluation.model_dump(include={"max_tokens", "temperature", "seed"})
        if params.structured in FORMATS:
            self._sampling["response_format"] = FORMATS[params.structured]
        self.concurrency = params.concurrency
        self.digest = self._identify()
        self.options: Mapping[str, object] = {
            "engine": f"openai {self._address}",
            "concurrency": params.concurrency,
            **self._sampling,
        }

    def judge(self, prompt: str) -> str:
        """The reply to ``prompt``, sent as a user's message in the model's own chat template."""
        return self._patience.reply(lambda: self._chat(prompt))

    def _chat(self, prompt: str) -> str:
        with self._errors(self._timeout):
            reply = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                **self._sampling,
            )
            return str(reply.choices[0].message.content or "")

    def _identify(self) -> str:
        """sha256 over what the server says of the model."""
        try:
            with self._errors(PROBE_TIMEOUT):
                page = self._client.models.list(timeout=PROBE_TIMEOUT)
                models = {model.id: model.model_dump(mode="json") for model in page.data}
        except (Busy, Fault, JudgeError) as error:
            raise JudgeGone(str(error)) from error
        if self._model not in models:
            there = ", ".join(sorted(models)) or "none"
            raise JudgeGone(
                f"judge.model: {self._address} has no model {self._model} (it has: {there})"
            )
        known = {key: models[self._model].get(key) for key in STABLE}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def _errors(self, timeout: float) -> Iterator[None]:
        """The client's exceptions as ours; a server that repeats the key does not give it away."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            hint = ". Is judge.api_key_env right?" if error.status_code in (401, 403) else ""
            text = error.message.replace(self._key, "(key)")
            raise error_of(error.status_code, f"{self._address}: {text}{hint}") from None
        except openai.APITimeoutError as error:
            raise Fault(f"{self._address}: no answer within {timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise Busy(
                f"judge.base_url: no server answers at {self._address}. Start it, or name another"
            ) from error
        # The client builds its result from whatever comes, or fails to.
        except (
            *(ValueError, TypeError, AttributeError, IndexError, RecursionError),
            openai.APIError,
        ) as error:
            raise Fault(f"{self._address}: not an answer of OpenAI's protocol ({error})") from error


def _key(variable: str | None) -> str:
    if variable is None:
        return "no-key-needed"  # The client insists on one, and would else send OPENAI_API_KEY.
    if not os.environ.get(variable):
        raise JudgeGone(f"judge.api_key_env: the environment variable {variable} is not set")
    return os.environ[variable]
