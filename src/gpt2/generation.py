"""One token after another (tutorial part 4): batched, with a cache of what was already computed."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gpt2.device import Runtime
from gpt2.errors import UserError
from gpt2.model import GPT2, KVCache
from gpt2.params import NonNegative, Params, Positive
from gpt2.progress import Progress


class SamplingParams(Params):
    """How the next token is chosen."""

    max_new_tokens: Positive
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: always the likeliest token (greedy)."""
    top_k: Positive | None = None
    """Choose among the k likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Choose among the fewest likeliest tokens that have this probability (Holtzman 2020)."""
    seed: NonNegative = 123


def next_token_probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """``(B, V)`` logits to probabilities after temperature (above 0), top-k and top-p."""
    scaled = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled.shape[-1]:
        kth = scaled.topk(sampling.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, float("-inf"))
    probabilities = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # The probability of all likelier tokens: 0 for the likeliest, which so always stays.
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(
            1, order, before >= sampling.top_p
        )
        probabilities = probabilities.masked_fill(dropped, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


@torch.no_grad()
def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[list[int]]:
    """The new tokens after each prompt, up to ``end_of_text`` or the end of the context.

    A row's result does not depend on the rows beside it: each draws from a generator of its own,
    seeded by ``sampling.seed`` and its index. (Products of other sizes may round differently.)

    Raises:
        UserError: a prompt is empty or fills the whole context.
    """
    for index, ids in enumerate(prompts):
        if not 0 < len(ids) < model.config.context_length:
            raise UserError(
                f"prompt {index} has {len(ids)} tokens; the model continues 1 to "
                f"{model.config.context_length - 1}"
            )
    training = model.training
    model.eval()
    responses: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    # One autocast around all steps: it then casts each weight once, not once a token.
    with runtime.autocast():
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            _generate_batch(model, prompts, rows, responses, sampling, end_of_text, runtime)
            if progress:
                progress.advance(count=len(rows))
    model.train(training)
    return responses


def _generate_batch(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    responses: list[list[int]],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
) -> None:
    device = runtime.device
    lengths = torch.tensor([len(prompts[row]) for row in rows])
    longest = int(lengths.max())
    places = min(longest + sampling.max_new_tokens, model.config.context_length)
    cache = KVCache(
        model.config, len(rows), places, torch.empty(0, dtype=runtime.dtype, device=device)
    )
    # Padding stands on the right: no token looks ahead, and its places in the cache are written
    # again, by the tokens that really come there, before anything looks at them.
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(prompts[row])] = torch.tensor(prompts[row])
    positions = torch.arange(longest).expand(len(rows), -1)
    features = model.features(ids.to(device), positions.to(device), cache)  # B T C
    last = features[torch.arange(len(rows)), lengths - 1]  # B C
    generators = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + row) for row in rows]
    alive = torch.ones(len(rows), dtype=torch.bool)
    for _ in range(sampling.max_new_tokens):
        chosen = _choose(model.logits(last), sampling, generators)  # B
        alive &= chosen != end_of_text
        for i in alive.nonzero().flatten().tolist():
            responses[rows[i]].append(int(chosen[i]))
        alive &= lengths < places
        if not alive.any():
            break
        # A finished row goes on in place, unread; its length stays, so it never leaves the cache.
        positions = lengths.clamp(max=places - 1)[:, None]
        last = model.features(chosen[:, None].to(device), positions.to(device), cache)[:, 0]
        lengths = lengths + alive


def _choose(
    logits: Tensor, sampling: SamplingParams, generators: Sequence[torch.Generator]
) -> Tensor:
    """``(B, V)`` logits to ``(B,)`` token ids on the CPU."""
    if sampling.temperature == 0:
        return logits.argmax(-1).cpu()
    cumulative = next_token_probabilities(logits, sampling).cpu().double().cumsum(-1)
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    # Scaled by the sum, which rounding leaves a little off 1, a draw below 1 always finds a token.
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]
