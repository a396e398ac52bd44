"""Sampling: from logits to the next token (tutorial part 4).

The steps, their order and their formulas are the same as in `transformers`.
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
"""A temperature below this counts as 0. Divided by less, two logits that differ in float32 (unless
both are near 0) differ so much that the larger one has all the probability, or they overflow."""


class SamplingParams(Params):
    """How the next tokens are sampled, and when a text ends."""

    max_new_tokens: Positive
    """A text ends after this many new tokens, if not earlier."""
    repetition_penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Above 1, tokens that already occur in the text or its prompt become less likely
    (Keskar 2019); below 1, more likely."""
    temperature: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Divides the logits; 0: always the most likely token (greedy)."""
    top_k: Positive | None = None
    """Sample from the k most likely tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of most likely tokens with at least this total probability
    (nucleus sampling, Holtzman 2020)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Sample only from tokens with at least this share of the most likely token's probability
    (Nguyen 2024)."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[])
    """A text ends with the token that completes one of these strings, even if the string began in
    the prompt."""
    strict: bool = False
    """Refuse a prompt that is longer than the model's context; false: use its end, with a
    warning."""
    seed: NonNegative = 123
    """Seed of the random choices."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < GREEDY


def choose(
    logits: Tensor,
    sampling: SamplingParams,
    texts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Sample the next token of each row: ``(B, V)`` logits to ``(B,)`` token ids on the CPU.

    Args:
        logits: ``(B, V)``.
        sampling: how to sample.
        texts: each row's tokens so far, for the repetition penalty.
        generators: a random generator for each row.

    Raises:
        UserError: the logits are not finite numbers.
    """
    if sampling.greedy:
        # float32: on a CPU four times as fast as bfloat16.
        scores = penalise_repetition(logits.float(), texts, sampling.repetition_penalty)
        return scores.argmax(-1).cpu()
    probabilities = next_token_probabilities(logits, sampling, texts)
    cumulative = probabilities.cpu().double().cumsum(-1)
    if not cumulative[:, -1].isfinite().all():
        raise UserError("the model's logits are not finite numbers: its weights are of no use")
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    # Rounding leaves the sum a little off 1. A draw scaled by the sum always finds a token.
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]


def next_token_probabilities(
    logits: Tensor, sampling: SamplingParams, texts: Sequence[Sequence[int]] = ()
) -> Tensor:
    """``(B, V)`` logits to ``(B, V)`` probabilities of the next token.

    ``texts``: each row's tokens so far; only a repetition penalty needs them.
    """
    scores = penalise_repetition(logits.float(), texts, sampling.repetition_penalty)
    if sampling.greedy:
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).float()
    scores = scores / sampling.temperature
    scores = keep_top_k(scores, sampling.top_k)
    scores = keep_top_p(scores, sampling.top_p)
    scores = keep_min_p(scores, sampling.min_p)
    return scores.softmax(-1)


def penalise_repetition(scores: Tensor, texts: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Divide the scores of tokens that occur in the row's text, or multiply negative ones."""
    if penalty == 1:
        return scores
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    for row, text in zip(seen, texts, strict=True):
        row[torch.tensor(text)] = True
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen.to(scores.device), penalised, scores)


def keep_top_k(scores: Tensor, k: int | None) -> Tensor:
    """Mask all scores below the k-th largest."""
    if k is None or k >= scores.shape[-1]:
        return scores
    kth = scores.topk(k).values[:, -1:]
    return scores.masked_fill(scores < kth, float("-inf"))


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Mask the least likely tokens, which together have a probability of at most 1 - p."""
    if p == 1:
        return scores
    ordered, order = scores.sort()
    unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - p
    unlikely[:, -1] = False  # keep at least one token, for any p
    return scores.masked_fill(unlikely.scatter(1, order, unlikely), float("-inf"))


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    """Mask the tokens that are less likely than p times the most likely one."""
    if p == 0:
        return scores
    probabilities = scores.softmax(-1)
    least = p * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(probabilities < least, float("-inf"))
