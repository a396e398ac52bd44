"""The shape of a GPT-2: what ``params.yaml`` says, and what a model directory's config may add."""

from typing import Literal, Self

from pydantic import model_validator

from gpt2.core.params import Fraction, Params, Positive


class Architecture(Params):
    """The shape of a GPT-2, apart from its vocabulary, which the tokenizer decides."""

    context_length: Positive
    """Most tokens that the model can see at once."""
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
    """The whole shape of a GPT-2. What has a default differs in models of others only."""

    vocab_size: Positive
    n_inner: Positive | None = None
    """Channels inside an MLP; None: 4 `n_embd`."""
    gelu: Literal["tanh", "none"] = "tanh"
    """OpenAI trained with the tanh approximation of GELU; none is exact, and gives other logits."""
    tie_word_embeddings: bool = True
    """Whether the output layer is the tokens' embedding, or has weights of its own."""

    @property
    def mlp_width(self) -> int:
        """Channels inside an MLP."""
        return self.n_inner or 4 * self.n_embd
