"""From the logits to the next token, step by step (tutorial part 4).

The steps, their order and their arithmetic are those of `transformers`.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from gpt2.core.errors import UserError
from gpt2.core.params import NonNegative, Params, Positive

GREEDY = 1e-9
"""A temperature below it counts as 0: two logits that differ in float32, if they are not near 0,
then differ so much that the larger one has all the probability. Logits divided by less overflow."""


class SamplingParams(Params):
    """How a text is continued."""

    max_new_tokens: Positive
    repetition_penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Above 1, tokens that stand in the text already, prompt included, become less likely
    (Keskar 2019); below 1, more likely."""
    temperature: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """0: always the likeliest token (greedy)."""
    top_k: Positive | None = None
    """Choose among the k likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Choose among the fewest likeliest tokens that have this probability (Holtzman 2020)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Choose among the tokens that have this share of the likeliest one's probability
    (Nguyen 2024)."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[])
    """A text ends with the token that completes one of these, even if it began in the prompt."""
    strict: bool = False
    """Refuse a prompt that is longer than the model's context; false: keep its end, with a
    warning."""
    seed: NonNegative = 123

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always chosen."""
        return self.temperature < GREEDY


def choose(
    logits: Tensor,
    sampling: SamplingParams,
    texts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """``(B, V)`` logits to ``(B,)`` token ids on the CPU; ``texts``: the rows' tokens so far.

    Raises:
        UserError: the logits are no numbers.
    """
    if sampling.greedy:
        # In float32: on a CPU four times faster than in bfloat16.
        scores = penalise_repetition(logits.float(), texts, sampling.repetition_penalty)
        return scores.argmax(-1).cpu()
    probabilities = next_token_probabilities(logits, sampling, texts)
    cumulative = probabilities.cpu().double().cumsum(-1)
    if not cumulative[:, -1].isfinite().all():
        raise UserError("the model's logits are not finite numbers: its weights are of no use")
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    # Scaled by the sum, which rounding leaves a little off 1, a draw below 1 always finds a token.
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]


def next_token_probabilities(
    logits: Tensor, sampling: SamplingParams, texts: Sequence[Sequence[int]] = ()
) -> Tensor:
    """``(B, V)`` logits to the probabilities of the next token; ``texts``: the rows' tokens so far,
    of which only a repetition penalty asks."""
    scores = penalise_repetition(logits.float(), texts, sampling.repetition_penalty)
    if sampling.greedy:
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).float()
    scores = scores / sampling.temperature
    scores = keep_top_k(scores, sampling.top_k)
    scores = keep_top_p(scores, sampling.top_p)
    scores = keep_min_p(scores, sampling.min_p)
    return scores.softmax(-1)


def penalise_repetition(scores: Tensor, texts: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Divide the scores of the tokens in each row's text, or multiply them where negative."""
    if penalty == 1:
        return scores
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    for row, text in zip(seen, texts, strict=True):
        row[torch.tensor(text)] = True
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen.to(scores.device), penalised, scores)


def keep_top_k(scores: Tensor, k: int | None) -> Tensor:
    """Leave out all below the k-th largest score."""
    if k is None or k >= scores.shape[-1]:
        return scores
    kth = scores.topk(k).values[:, -1:]
    return scores.masked_fill(scores < kth, float("-inf"))


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Leave out the least likely tokens that have a probability of 1 - p together."""
    if p == 1:
        return scores
    ordered, order = scores.sort()
    unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - p
    unlikely[:, -1] = False  # whatever p is, one token stays
    return scores.masked_fill(unlikely.scatter(1, order, unlikely), float("-inf"))


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    """Leave out the tokens that are less likely than p times the likeliest one."""
    if p == 0:
        return scores
    probabilities = scores.softmax(-1)
    least = p * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(probabilities < least, float("-inf"))
