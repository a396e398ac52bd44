"""One token after another (tutorial part 4): batched, with a cache of what was already computed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gpt2.device import Runtime
from gpt2.errors import UserError
from gpt2.model import GPT2, KVCache
from gpt2.params import NonNegative, Params, Positive
from gpt2.progress import Progress
from gpt2.tokenizer import Tokenizer


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
        _refuse_unfit(f"prompt {index}", ids, model)
    training = model.training
    model.eval()
    responses: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    # One autocast around all steps: it then casts each weight once, not once a token.
    with runtime.autocast():
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            for step in _steps(model, prompts, rows, sampling, end_of_text, runtime):
                for row, token in step:
                    responses[row].append(token)
            if progress:
                progress.advance(count=len(rows))
    model.train(training)
    return responses


def stream(
    model: GPT2,
    prompt: Sequence[int],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
) -> Iterator[int]:
    """The tokens that `generate` gives after one prompt, each as soon as it is chosen.

    Take them in one thread, one stream at a time: between two tokens the thread stays in the
    runtime's autocast, since casting all weights anew would take several times as long as a token.

    Raises:
        UserError: the prompt is empty or fills the whole context; at once, not at the first token.
    """
    _refuse_unfit("the prompt", prompt, model)

    def tokens() -> Iterator[int]:
        training = model.training
        model.eval()
        try:
            with runtime.autocast():
                for step in _steps(model, [prompt], [0], sampling, end_of_text, runtime):
                    for _, token in step:
                        yield token
        finally:
            model.train(training)

    return tokens()


@dataclass(frozen=True)
class TextModel:
    """A model that reads and writes text: with its tokenizer, on its device."""

    model: GPT2
    tokenizer: Tokenizer
    runtime: Runtime

    def continuation(self, text: str, sampling: SamplingParams) -> Iterator[str]:
        """What follows ``text``, in pieces, by `stream`; an empty text begins a new document.

        Raises:
            UserError: as `stream` does.
        """
        end = self.tokenizer.end_of_text
        ids = self.tokenizer.encode(text) or [end]
        return self.tokenizer.decode_stream(stream(self.model, ids, sampling, end, self.runtime))


def _refuse_unfit(name: str, ids: Sequence[int], model: GPT2) -> None:
    most = model.config.context_length - 1
    if not 0 < len(ids) <= most:
        raise UserError(f"{name} has {len(ids)} tokens; the model continues 1 to {most}")


@torch.no_grad()
def _steps(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
) -> Iterator[list[tuple[int, int]]]:
    """Go on with the prompts ``rows`` side by side: at each step, the rows not ended and a token
    for each."""
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
    seeds = [(sampling.seed * 1_000_003 + row) % 2**64 for row in rows]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    alive = torch.ones(len(rows), dtype=torch.bool)
    for _ in range(sampling.max_new_tokens):
        chosen = _choose(model.logits(last), sampling, generators)  # B
        alive &= chosen != end_of_text
        yield [(rows[i], int(chosen[i])) for i in alive.nonzero().flatten().tolist()]
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
