"""How a GPT-2 is pretrained, and the weights that it may start from (tutorial part 4)."""

from pathlib import Path
from typing import Literal

from gpt2.core.errors import UserError
from gpt2.core.params import Positive
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.config import Architecture
from gpt2.model.gpt2 import GPT2
from gpt2.training.params import TrainParams


class PretrainParams(TrainParams):
    """How the model is pretrained."""

    initial_weights: Literal["none", "data/models/gpt2"] = "none"
    """none: random ones. Else training goes on with that model's, and with its vocabulary."""
    model: Architecture
    """With initial weights their shape; ``context_length`` may be shorter, ``dropout`` any."""
    steps: Positive
    """Optimizer steps."""
    prompts: list[str]
    """Texts that the model continues at each evaluation."""
    sampling: SamplingParams
    """How it continues them."""


def load_initial(directory: Path, wanted: Architecture, tokenizer: Tokenizer) -> GPT2:
    """The model to go on with; of its context, as much as ``wanted``.

    Raises:
        UserError: it has another shape than ``wanted``, or the tokens are not of its vocabulary.
    """
    model = weights.load(directory, wanted.dropout)
    if weights.load_tokenizer(directory, model).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the tokens are not of the vocabulary of {directory}. Run: dvc repro tokenize"
        )
    if problem := other_shape(wanted, model.config):
        raise UserError(problem)
    if wanted.context_length < model.config.context_length:
        model.crop(wanted.context_length)
    return model


def other_shape(wanted: Architecture, found: Architecture) -> str | None:
    """What is wrong if ``wanted`` is not the shape of the initial weights, ``found``, and what to
    write. Only the context may differ: it may be shorter."""
    keys = ("n_layer", "n_head", "n_embd")
    if wanted.context_length <= found.context_length and all(
        getattr(wanted, key) == getattr(found, key) for key in keys
    ):
        return None
    shape = ", ".join(f"{key}: {getattr(found, key)}" for key in ("context_length", *keys))
    return (
        "pretrain.model: not the shape of pretrain.initial_weights. "
        f"Write {{{shape}, dropout: {wanted.dropout}}}; context_length may be less"
    )
