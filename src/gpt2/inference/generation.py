"""One token after another (tutorial part 4): batched, with a cache of what was already computed.

Texts are written side by side in the rows of a cache. A row whose text has ended is given to the
next prompt at once ("continuous batching", Yu et al. 2022), so no row is computed for nothing.

A text may outgrow the model's context. Then the model sees its last `context_length` tokens, as in
the tutorial's loop (``ids[:, -context_length:]``). With each further token all of them move to
another position, which GPT-2 adds to what it caches: the row is read anew, so that from there on a
token costs a pass over the whole context.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.progress import Progress
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.sampling import SamplingParams, choose
from gpt2.inference.stopping import stop_strings
from gpt2.model.gpt2 import GPT2, MLP, CausalSelfAttention
from gpt2.model.kv_cache import CacheView, KVCache

log = logging.getLogger(__name__)

PROMPTS_TOGETHER = {"cpu": 8, "cuda": 64, "mps": 8}
"""Prompts read in one pass: on a CPU more of one length hardly gain anything, and of several they
are padded."""
PLACES = 128
"""A GPU looks through a multiple of these places, so that few steps have to be recorded."""
_RECORDING = Lock()
"""A process can record one graph at a time."""


class Product(nn.Module):
    """``x W^T + b``, made ready once for many calls: in the runtime's dtype, and on x86 with the
    weights in the order in which oneDNN's kernels read them, which they else restore every time.
    A single row in float32 is faster with the weights as they are (MKL's)."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, runtime: Runtime, gelu: str | None = None
    ) -> None:
        """``weight`` is ``(out, in)``; ``gelu``: which of PyTorch's approximations of GELU follows,
        if one does."""
        super().__init__()
        self.dtype, self.gelu = runtime.dtype, gelu
        self.weight = weight.detach().to(self.dtype)
        self.packed = (
            torch.ops.mkldnn._reorder_linear_weight(self.weight) if _packs(runtime) else None
        )
        if self.packed is not None and self.dtype != torch.float32:
            del self.weight  # a copy that nothing reads; in float32 it is the model's own
        self.bias = None if bias is None else bias.detach().to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        single = self.dtype == torch.float32 and x.numel() == x.shape[-1]
        if self.packed is not None and not single:
            then = "gelu" if self.gelu else "none"
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, then, [], self.gelu
            )
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out, approximate=self.gelu) if self.gelu else out


def _packs(runtime: Runtime) -> bool:
    if runtime.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        return False
    if runtime.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return runtime.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


class Decoder:
    """A GPT-2 made ready to write: matrix products as `Product`, all else as it is, in float32.

    It holds copies of the matrices and shares the rest, so it is of use until the model changes.
    """

    def __init__(self, model: GPT2, runtime: Runtime) -> None:
        self.config, self.runtime = model.config, runtime
        shared = {id(parameter): parameter for parameter in model.parameters()}
        self.model = deepcopy(model, shared).eval()

        def product(linear: nn.Linear, gelu: str | None = None) -> Product:
            return Product(linear.weight, linear.bias, runtime, gelu)

        for name, module in [*self.model.named_modules()]:
            if isinstance(module, CausalSelfAttention):
                self.model.set_submodule(f"{name}.c_attn", product(module.c_attn))
                self.model.set_submodule(f"{name}.c_proj", product(module.c_proj))
            elif isinstance(module, MLP):
                both = nn.Sequential(product(module.c_fc, module.gelu), product(module.c_proj))
                self.model.set_submodule(name, both)
        self.output = Product(model.output_weight, None, runtime)

    def cache(self, rows: int, places: int) -> KVCache:
        """An empty cache; on a CPU in float32, in which its attention is both exact and faster."""
        device, dtype = self.runtime.device, self.runtime.dtype
        like = torch.empty(0, device=device, dtype=torch.float32 if device.type == "cpu" else dtype)
        return KVCache(self.config, rows, places, like)

    def step(self, rows: int, places: int) -> "Step | RecordedStep":
        """What adds a token to each text in a new cache."""
        on_gpu = self.runtime.device.type == "cuda"
        return RecordedStep(self, rows, places) if on_gpu else Step(self, rows, places)

    def features(self, ids: Tensor, past: CacheView) -> Tensor:
        """``(B, T)`` ids to ``(B, T, C)`` features, as `GPT2.features`."""
        return self.model.features(ids.to(self.runtime.device), past)

    def next_logits(self, ids: Tensor, past: CacheView) -> Tensor:
        """``(B, 1)`` ids to the ``(B, V)`` logits of what follows them."""
        out: Tensor = self.output(self.features(ids, past)[:, 0])
        return out


class Step:
    """The texts' newest tokens in, the logits of what follows them out; their cache."""

    def __init__(self, decoder: Decoder, rows: int, places: int) -> None:
        self._decoder, self.cache = decoder, decoder.cache(rows, places)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``(B, V)`` logits, of the first B rows; their tokens stand at ``positions``."""
        past = CacheView(self.cache, torch.tensor(positions)[:, None])
        return self._decoder.next_logits(torch.tensor(tokens)[:, None], past)


class RecordedStep:
    """The same in tensors that never move or change their shape: a GPU records their kernels once
    and then repeats them at one call (a CUDA graph), where Python would start each by itself.

    All rows of the cache are computed, and places up to a multiple of `PLACES`. A row without a
    text writes to its place 0, which the next text writes again before anything looks at it.
    """

    def __init__(self, decoder: Decoder, rows: int, places: int) -> None:
        self._decoder = decoder
        self.cache = decoder.cache(rows, -(-places // PLACES) * PLACES)
        self._tokens, self._positions = torch.zeros(
            2, rows, 1, dtype=torch.long, device=decoder.runtime.device
        )
        self._steps: dict[int, Callable[[], Tensor]] = {}

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``(B, V)`` logits, of the first B rows; their tokens stand at ``positions``."""
        empty = [0] * (len(self._tokens) - len(tokens))
        self._tokens.copy_(torch.tensor([*tokens, *empty])[:, None])
        self._positions.copy_(torch.tensor([*positions, *empty])[:, None])
        used = (max(positions) // PLACES + 1) * PLACES
        if used not in self._steps:
            self._steps[used] = _recorded(partial(self._logits, used), self._tokens.device)
        return self._steps[used]()[: len(tokens)]

    def _logits(self, used: int) -> Tensor:
        past = CacheView(self.cache, self._positions, used=used)
        return self._decoder.next_logits(self._tokens, past)


def _recorded(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """``step`` as a CUDA graph, whose result lies in the same memory each time; elsewhere itself.

    It must give the same when it is called twice.
    """
    if device.type != "cuda":
        return step
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    with _RECORDING:
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            step()  # libraries prepare themselves at the first call
        torch.cuda.current_stream(device).wait_stream(aside)
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


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
    """The new tokens after each prompt, up to ``end_of_text``, which is left out, or up to a string
    of ``sampling.stop``, for which the ``tokenizer`` is needed.

    A row's result does not depend on the rows beside it: each draws from a generator of its own,
    seeded by ``sampling.seed`` and its index. (Products of other sizes may round differently.)

    Raises:
        UserError: a prompt is empty or, if ``sampling.strict``, longer than the context.
    """
    check_prompts(prompts, model.config.context_length, sampling.strict)
    responses: list[list[int]] = [[] for _ in prompts]
    decoder = Decoder(model, runtime)
    for index, token in write(decoder, prompts, sampling, end_of_text, batch_size, tokenizer):
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
    """The tokens that `generate` gives after one prompt, each as soon as it is chosen.

    Raises:
        UserError: as `generate` does; at once, not at the first token.
    """
    check_prompts([prompt], model.config.context_length, sampling.strict)
    written = write(Decoder(model, runtime), [prompt], sampling, end_of_text, 1, tokenizer)
    return (token for _, token in written if token is not None)


def check_prompts(prompts: Sequence[Sequence[int]], context_length: int, strict: bool) -> None:
    """Warn of prompts whose beginning the model will not see.

    Raises:
        UserError: a prompt is empty or, if ``strict``, longer than the context.
    """
    too_long = []
    for index, ids in enumerate(prompts):
        name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
        if not ids:
            raise UserError(f"{name} has no tokens; a new document begins with the end-of-text one")
        if len(ids) > context_length:
            too_long.append(
                f"{name} has {len(ids)} tokens, and the model's context {context_length}"
            )
    if too_long and strict:
        raise UserError(f"{too_long[0]}. Shorten it; without strict its end would be kept")
    if too_long:
        others = f" ({len(too_long)} of {len(prompts)} are too long)" if len(prompts) > 1 else ""
        log.warning(
            "%s%s: only its end is read, and each new token takes a pass over the whole context",
            *(too_long[0], others),
        )


@dataclass
class _Row:
    """A text being written in a row of the cache."""

    index: int
    """Of its prompt."""
    tokens: list[int]
    """Its prompt and what came after it. The cache does not hold the last one yet."""
    left: int
    """Tokens that may still come."""
    generator: torch.Generator


@torch.no_grad()
def write(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    end_of_text: int,
    batch_size: int,
    tokenizer: Tokenizer | None,
) -> Iterator[tuple[int, int | None]]:
    """The index of a prompt and its next token, one after another; None: that text has ended."""
    context_length = decoder.config.context_length
    is_complete = stop_strings(sampling.stop, tokenizer)
    # Texts of about one length side by side: every row looks through as many places as the longest.
    waiting = deque(sorted(range(len(prompts)), key=lambda index: len(prompts[index])))
    longest = max(map(len, prompts), default=1)
    places = min(longest + sampling.max_new_tokens, context_length)
    step = decoder.step(min(batch_size, len(prompts)), places)
    at_once = PROMPTS_TOGETHER[decoder.runtime.device.type]
    rows: list[_Row] = []
    while waiting or rows:
        while waiting and len(rows) < batch_size:
            together = min(at_once, batch_size - len(rows), len(waiting))
            begun = [waiting.popleft() for _ in range(together)]
            texts = [prompts[index][-context_length:-1] for index in begun]
            _read(decoder, step.cache, len(rows), texts)
            for index in begun:
                generator = torch.Generator().manual_seed(_seed(sampling, index))
                rows.append(_Row(index, [*prompts[index]], sampling.max_new_tokens, generator))
        logits = step(
            [row.tokens[-1] for row in rows],
            [min(len(row.tokens), context_length) - 1 for row in rows],
        )
        texts = [row.tokens for row in rows]
        chosen = choose(logits, sampling, texts, [row.generator for row in rows]).tolist()
        # From the last row down, so that a row that moves has been dealt with.
        for place in reversed(range(len(rows))):
            row, token = rows[place], chosen[place]
            row.tokens.append(token)
            row.left -= 1
            if token != end_of_text:
                yield row.index, token
            if token == end_of_text or not row.left or is_complete(row.tokens):
                yield row.index, None
                step.cache.move(len(rows) - 1, place)
                rows[place] = rows[-1]
                rows.pop()
            elif len(row.tokens) > context_length:
                _read(decoder, step.cache, place, [row.tokens[-context_length:-1]])


def _read(decoder: Decoder, cache: KVCache, first_row: int, texts: Sequence[Sequence[int]]) -> None:
    """Put the texts into the rows of the cache from ``first_row`` on."""
    longest = max(map(len, texts))
    if longest:
        # Padding stands on the right: no token looks ahead, and its places are written again, by
        # the tokens that really come there, before anything looks at them.
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        past = CacheView(cache, torch.arange(longest).expand(len(texts), -1), first_row)
        decoder.features(ids, past)


def _seed(sampling: SamplingParams, index: int) -> int:
    return (sampling.seed * 1_000_003 + index) % 2**64
