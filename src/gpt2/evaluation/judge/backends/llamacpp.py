"""A judge in this process: any GGUF model, run by llama.cpp (package xllamacpp)."""

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import JudgeError

MODEL = "model.gguf"
"""The model's file in the judge's directory."""
GRAMMAR = r"""
root  ::= "{\"score\": " score "}"
score ::= "100" | [1-9] [0-9] | [0-9]
"""
"""Grammar of the replies, in llama.cpp's GBNF notation: the model can give no others."""


class LlamaCppJudge:
    """A GGUF model, one prompt at a time. Nothing is cached, so the order does not matter.

    A prompt that does not fit into ``n_ctx`` tokens together with its reply is an error; it is
    never truncated.

    Raises:
        UserError: there is no file at ``path``; or, at the first prompt, llama.cpp cannot load it.
    """

    concurrency = 1

    def __init__(self, path: Path, threads: int, evaluation: LlamaEvalParams) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file. Run the stage that writes it: dvc repro")
        self._path = path
        self._n_ctx = evaluation.n_ctx
        self._threads = threads
        self._sampling = evaluation.model_dump(include={"max_tokens", "temperature", "seed"})
        self.digest = files.sha256(path)
        self.options: Mapping[str, object] = {
            "engine": f"xllamacpp {version('xllamacpp')}",
            "grammar": GRAMMAR,
            "n_ctx": self._n_ctx,
            "threads": threads,
            **self._sampling,
        }

    def judge(self, prompt: str) -> str:
        """The reply to ``prompt``, sent as a user message with the model's own chat template."""
        reply = self._server.handle_chat_completions(
            {
                "messages": [{"role": "user", "content": prompt}],
                "grammar": GRAMMAR,
                "cache_prompt": False,
                **self._sampling,
            }
        )
        if "error" in reply:
            raise JudgeError(f"llama.cpp: {reply['error']['message']}")
        return str(reply["choices"][0]["message"]["content"])

    # Loaded at the first prompt. A server that is deleted unused can hang (seen with xllamacpp
    # 2026.10), and a rerun with all replies in its log needs no model.
    @cached_property
    def _server(self) -> Any:
        import xllamacpp  # type: ignore[import-untyped]

        settings = xllamacpp.CommonParams()
        settings.model.path = str(self._path)
        settings.n_ctx = self._n_ctx
        settings.n_parallel = 1
        settings.cpuparams_batch.n_threads = self._threads
        # One thread for the reply: threads synchronise after every operation. For a few tokens, two
        # threads save 0.05 s, but lose 10 s as soon as another process uses a core.
        settings.cpuparams.n_threads = 1
        settings.cache_prompt = False
        settings.cache_ram_mib = 0
        settings.warmup = False
        settings.ui = False
        settings.verbosity = 0
        try:
            return xllamacpp.Server(settings)
        except (RuntimeError, LookupError, ValueError) as error:  # the file is not a model
            raise UserError(
                f"{self._path}: llama.cpp cannot load this model ({error}) "
                "Is it a complete GGUF file, and does it fit into memory?"
            ) from error
