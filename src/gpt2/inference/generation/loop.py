"""The generation loop (tutorial part 4): batched, with a KV cache and continuous batching.

Texts are generated side by side, one per row of the cache. When a text ends, the next prompt takes
its row at once ("continuous batching", Yu et al. 2022), so that no row is idle.

A text may grow longer than the model's context. The model then sees its last `context_length`
tokens, as in the tutorial's loop (``ids[:, -context_length:]``). Every further token shifts the
position of all the others, and GPT-2 adds the position to what it caches. So the row has to be
computed anew, and from there on each token costs a pass over the whole context.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.progress import Progress
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.decoder import Decoder
from gpt2.inference.generation.sampling import SamplingParams, choose
from gpt2.inference.generation.stopping import stop_strings
from gpt2.model.gpt2 import GPT2
from gpt2.model.kv_cache import CacheView, KVCache

log = logging.getLogger(__name__)

PREFILL_BATCH = {"cpu": 8, "cuda": 64, "mps": 8}
"""Prompts computed in one pass, by device. On a CPU larger batches gain little, and prompts of
unequal length need padding."""


def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
    batch_size: int = 32,
    progress: Progress | None = None,
    tokenizer: Tokenizer | None = None,
) -> list[list[int]]:
    """The new tokens after each prompt, without the prompt.

    A text ends before ``end_of_text``, with a string of ``sampling.stop`` (which needs the
    ``tokenizer``), or after ``sampling.max_new_tokens``.

    The result for a prompt does not depend on the rest of the batch: each prompt has its own random
    generator, seeded by ``sampling.seed`` and the prompt's index. (Matrix products of another size
    may still round differently.)

    Raises:
        UserError: a prompt is empty or, if ``sampling.strict``, longer than the context.
    """
    check_prompts(prompts, model.config.context_length, sampling.strict)
    responses: list[list[int]] = [[] for _ in prompts]
    decoder = Decoder(model, runtime)
    tokens = generate_interleaved(decoder, prompts, sampling, end_of_text, batch_size, tokenizer)
    for index, token in tokens:
        if token is not None:
            responses[index].append(token)
        elif progress:
            progress.advance()
    return responses


def stream(
    model: GPT2,
    prompt: Sequence[int],
    sampling: SamplingParams,
    end_of_text: int,
    runtime: Runtime,
    tokenizer: Tokenizer | None = None,
) -> Iterator[int]:
    """The tokens that `generate` returns for one prompt, each as soon as it is sampled.

    Raises:
        UserError: as `generate`; at the call, not at the first token.
    """
    check_prompts([prompt], model.config.context_length, sampling.strict)
    decoder = Decoder(model, runtime)
    tokens = generate_interleaved(decoder, [prompt], sampling, end_of_text, 1, tokenizer)
    return (token for _, token in tokens if token is not None)


def check_prompts(prompts: Sequence[Sequence[int]], context_length: int, strict: bool) -> None:
    """Warn of prompts that are longer than the context: the model sees only their end.

    Raises:
        UserError: a prompt is empty or, if ``strict``, longer than the context.
    """
    too_long = []
    for index, ids in enumerate(prompts):
        name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
        if not ids:
            raise UserError(f"{name} has no tokens; start a new document with the end-of-text one")
        if len(ids) > context_length:
            too_long.append(
                f"{name} has {len(ids)} tokens, and the model's context {context_length}"
            )
    if too_long and strict:
        raise UserError(f"{too_long[0]}. Shorten it; without strict only its end is used")
    if too_long:
        others = f" ({len(too_long)} of {len(prompts)} are too long)" if len(prompts) > 1 else ""
        log.warning(
            "%s%s: only its end is read, and each new token takes a pass over the whole context",
            *(too_long[0], others),
        )


@torch.no_grad()
def generate_interleaved(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    end_of_text: int,
    batch_size: int,
    tokenizer: Tokenizer | None,
) -> Iterator[tuple[int, int | None]]:
    """Pairs of a prompt's index and its next token, as they are sampled; None: that text has ended.

    The texts of several prompts alternate.
    """
    context_length = decoder.config.context_length
    is_complete = stop_strings(sampling.stop, tokenizer)
    # Prompts of similar length run together: every row attends over the slots of the longest.
    waiting = deque(sorted(range(len(prompts)), key=lambda index: len(prompts[index])))
    longest = max(map(len, prompts), default=1)
    slots = min(longest + sampling.max_new_tokens, context_length)
    step = decoder.step(min(batch_size, len(prompts)), slots)
    prefill_batch = PREFILL_BATCH[decoder.runtime.device.type]
    rows: list[_Row] = []
    while waiting or rows:
        while waiting and len(rows) < batch_size:
            count = min(prefill_batch, batch_size - len(rows), len(waiting))
            started = [waiting.popleft() for _ in range(count)]
            texts = [prompts[index][-context_length:-1] for index in started]
            _prefill(decoder, step.cache, len(rows), texts)
            for index in started:
                generator = torch.Generator().manual_seed(_seed(sampling, index))
                rows.append(_Row(index, [*prompts[index]], sampling.max_new_tokens, generator))
        logits = step(
            [row.tokens[-1] for row in rows],
            [min(len(row.tokens), context_length) - 1 for row in rows],
        )
        texts = [row.tokens for row in rows]
        chosen = choose(logits, sampling, texts, [row.generator for row in rows]).tolist()
        # From the last row down: a row that moves into a free one has already been handled.
        for number in reversed(range(len(rows))):
            row, token = rows[number], chosen[number]
            row.tokens.append(token)
            row.remaining -= 1
            if token != end_of_text:
                yield row.index, token
            if token == end_of_text or not row.remaining or is_complete(row.tokens):
                yield row.index, None
                step.cache.move(len(rows) - 1, number)
                rows[number] = rows[-1]
                rows.pop()
            elif len(row.tokens) > context_length:
                _prefill(decoder, step.cache, number, [row.tokens[-context_length:-1]])


@dataclass
class _Row:
    """A text that is being generated in one row of the cache."""

    index: int
    """Index of its prompt."""
    tokens: list[int]
    """The prompt and the tokens after it. The last one is not in the cache yet."""
    remaining: int
    """How many more tokens it may get."""
    generator: torch.Generator


def _prefill(
    decoder: Decoder, cache: KVCache, first_row: int, texts: Sequence[Sequence[int]]
) -> None:
    """Compute the keys and values of ``texts`` into rows of the cache, from ``first_row`` on."""
    longest = max(map(len, texts))
    if longest:
        # Padding is on the right. Attention is causal, so no token sees it, and the real tokens at
        # these positions overwrite its slots before anything reads them.
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        view = CacheView(cache, torch.arange(longest).expand(len(texts), -1), first_row)
        decoder.features(ids, view)


def _seed(sampling: SamplingParams, index: int) -> int:
    return (sampling.seed * 1_000_003 + index) % 2**64
