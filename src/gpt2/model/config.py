"""The shape of a GPT-2: what ``params.yaml`` sets, and what a model directory may add."""

from typing import Literal, Self

from pydantic import model_validator

from gpt2.core.params import Fraction, Params, Positive


class Architecture(Params):
    """The shape of a GPT-2 without its vocabulary, which the tokenizer decides."""

    context_length: Positive
    """Maximum number of tokens that the model attends to."""
    n_layer: Positive
    n_head: Positive
    n_embd: Positive
    """Channels of the residual stream; a multiple of `n_head`."""
    dropout: Fraction = 0.0
    """Probability of dropping an activation while training."""

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        return self


class GPT2Config(Architecture):
    """The full shape of a GPT-2. Fields with a default differ only in imported models."""

    vocab_size: Positive
    n_inner: Positive | None = None
    """Channels of the hidden layer of an MLP; None: 4 `n_embd`."""
    gelu: Literal["tanh", "none"] = "tanh"
    """GELU's approximation: OpenAI trained with tanh. none: exact, which gives other logits."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares its weights with the token embedding."""

    @property
    def mlp_width(self) -> int:
        """Channels of the hidden layer of an MLP."""
        return self.n_inner or 4 * self.n_embd
