"""A judge that runs in this process: any GGUF model, by llama.cpp (package xllamacpp)."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from gpt2 import files
from gpt2.errors import UserError
from gpt2.judge.protocol import JudgeError

GRAMMAR = r"""
root  ::= "{\"score\": " score "}"
score ::= "100" | [1-9] [0-9] | [0-9]
"""
"""The only replies that the model can give (GBNF, llama.cpp's notation)."""


class LlamaCppJudge:
    """A GGUF model; one prompt at a time and nothing kept between two, so order does not matter.

    A prompt that does not fit into ``n_ctx`` tokens together with its reply is an error, never cut.

    Raises:
        UserError: ``path`` is missing or is no model that llama.cpp can run.
    """

    def __init__(
        self, path: Path, *, n_ctx: int, max_tokens: int, temperature: float, seed: int
    ) -> None:
        import xllamacpp  # type: ignore[import-untyped]

        if not path.is_file():
            raise UserError(f"{path}: no such file. Run the stage download")
        server = xllamacpp.CommonParams()
        server.model.path = str(path)
        server.n_ctx = n_ctx
        server.n_parallel = 1
        server.cache_prompt = False
        server.cache_ram_mib = 0
        server.warmup = False
        server.ui = False
        server.verbosity = 0
        try:
            self._server = xllamacpp.Server(server)
        except RuntimeError as error:
            raise UserError(
                f"{path}: llama.cpp cannot load this model ({error}) "
                "Is it a whole GGUF file, and does it fit into memory?"
            ) from error
        self._sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        self.digest = files.sha256(path)
        self.options: Mapping[str, object] = {
            "engine": f"xllamacpp {version('xllamacpp')}",
            "grammar": GRAMMAR,
            "n_ctx": n_ctx,
            **self._sampling,
        }

    def judge(self, prompt: str) -> str:
        """The reply to ``prompt``, sent as a user's message in the model's own chat template."""
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
