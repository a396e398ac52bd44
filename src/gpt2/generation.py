"""One token after another (tutorial part 4): batched, with a cache of what was already computed.

Texts are written side by side in the rows of a cache. A row whose text has ended is given to the
next prompt at once ("continuous batching", Yu et al. 2022), so no row is computed for nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.device import Runtime
from gpt2.errors import UserError
from gpt2.model import GPT2, MLP, CausalSelfAttention, KVCache, Past
from gpt2.params import NonNegative, Params, Positive
from gpt2.progress import Progress
from gpt2.tokenizer import Tokenizer

PROMPTS_TOGETHER = {"cpu": 8, "cuda": 64, "mps": 8}
"""Prompts read in one pass: on a CPU more of one length hardly gain anything, and of several they
are padded."""
PLACES = 128
"""A GPU looks through a multiple of these places, so that few steps have to be recorded."""
_RECORDING = Lock()
"""A process can record one graph at a time."""


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

    def features(self, ids: Tensor, past: Past) -> Tensor:
        """``(B, T)`` ids to ``(B, T, C)`` features, as `GPT2.features`."""
        return self.model.features(ids.to(self.runtime.device), past)

    def next_logits(self, ids: Tensor, past: Past) -> Tensor:
        """``(B, 1)`` ids to the ``(B, V)`` logits of what follows them."""
        out: Tensor = self.output(self.features(ids, past)[:, 0])
        return out


class Step:
    """The texts' newest tokens in, the logits of what follows them out; their cache."""

    def __init__(self, decoder: Decoder, rows: int, places: int) -> None:
        self._decoder, self.cache = decoder, decoder.cache(rows, places)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``(B, V)`` logits, of the first B rows; their tokens stand at ``positions``."""
        past = Past(self.cache, torch.tensor(positions)[:, None])
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
        past = Past(self.cache, self._positions, used=used)
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
) -> list[list[int]]:
    """The new tokens after each prompt, up to ``end_of_text`` or the end of the context.

    A row's result does not depend on the rows beside it: each draws from a generator of its own,
    seeded by ``sampling.seed`` and its index. (Products of other sizes may round differently.)

    Raises:
        UserError: a prompt is empty or fills the whole context.
    """
    for index, ids in enumerate(prompts):
        _refuse_unfit(f"prompt {index}", ids, model)
    responses: list[list[int]] = [[] for _ in prompts]
    decoder = Decoder(model, runtime)
    for index, token in _write(decoder, prompts, sampling, end_of_text, batch_size):
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
) -> Iterator[int]:
    """The tokens that `generate` gives after one prompt, each as soon as it is chosen.

    Raises:
        UserError: the prompt is empty or fills the whole context; at once, not at the first token.
    """
    _refuse_unfit("the prompt", prompt, model)
    return _stream(Decoder(model, runtime), prompt, sampling, end_of_text)


def _stream(
    decoder: Decoder, prompt: Sequence[int], sampling: SamplingParams, end_of_text: int
) -> Iterator[int]:
    tokens = _write(decoder, [prompt], sampling, end_of_text, 1)
    return (token for _, token in tokens if token is not None)


@dataclass(frozen=True)
class TextModel:
    """A model that reads and writes text: with its tokenizer, on its device."""

    model: GPT2
    tokenizer: Tokenizer
    runtime: Runtime

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.model, self.runtime)

    def continuation(self, text: str, sampling: SamplingParams) -> Iterator[str]:
        """What follows ``text``, in pieces, by `stream`; an empty text begins a new document.

        Raises:
            UserError: as `stream` does.
        """
        end = self.tokenizer.end_of_text
        ids = self.tokenizer.encode(text) or [self.tokenizer.start_of_text]
        _refuse_unfit("the prompt", ids, self.model)
        return self.tokenizer.decode_stream(_stream(self._decoder, ids, sampling, end))


def _refuse_unfit(name: str, ids: Sequence[int], model: GPT2) -> None:
    most = model.config.context_length - 1
    if not 0 < len(ids) <= most:
        raise UserError(f"{name} has {len(ids)} tokens; the model continues 1 to {most}")


@dataclass
class _Row:
    """A text being written in a row of the cache."""

    index: int
    """Of its prompt."""
    token: int
    """Its newest, which the cache does not hold yet."""
    position: int
    """Where that token stands."""
    left: int
    """Tokens that may still come."""
    generator: torch.Generator


@torch.no_grad()
def _write(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    end_of_text: int,
    batch_size: int,
) -> Iterator[tuple[int, int | None]]:
    """The index of a prompt and its next token, one after another; None: that text has ended."""
    context_length = decoder.config.context_length
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
            _read(decoder, step.cache, len(rows), [prompts[index][:-1] for index in begun])
            for index in begun:
                *before, newest = prompts[index]
                # The last token of all is chosen at the last place and has none of its own.
                left = min(sampling.max_new_tokens, context_length - len(before))
                generator = torch.Generator().manual_seed(_seed(sampling, index))
                rows.append(_Row(index, newest, len(before), left, generator))
        logits = step([row.token for row in rows], [row.position for row in rows])
        chosen = _choose(logits, sampling, [row.generator for row in rows]).tolist()
        # From the last row down, so that a row that moves has been dealt with.
        for place in reversed(range(len(rows))):
            row = rows[place]
            row.token, row.position, row.left = chosen[place], row.position + 1, row.left - 1
            ended = row.token == end_of_text
            if not ended:
                yield row.index, row.token
            if ended or not row.left:
                yield row.index, None
                step.cache.move(len(rows) - 1, place)
                rows[place] = rows[-1]
                rows.pop()


def _read(decoder: Decoder, cache: KVCache, first_row: int, texts: Sequence[Sequence[int]]) -> None:
    """Put the texts into the rows of the cache from ``first_row`` on."""
    longest = max(map(len, texts))
    if longest:
        # Padding stands on the right: no token looks ahead, and its places are written again, by
        # the tokens that really come there, before anything looks at them.
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        past = Past(cache, torch.arange(longest).expand(len(texts), -1), first_row)
        decoder.features(ids, past)


def _seed(sampling: SamplingParams, index: int) -> int:
    return (sampling.seed * 1_000_003 + index) % 2**64


def _choose(
    logits: Tensor, sampling: SamplingParams, generators: Sequence[torch.Generator]
) -> Tensor:
    """``(B, V)`` logits to ``(B,)`` token ids on the CPU."""
    if sampling.temperature == 0:
        return logits.float().argmax(-1).cpu()  # on a CPU four times faster than in bfloat16
    cumulative = next_token_probabilities(logits, sampling).cpu().double().cumsum(-1)
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    # Scaled by the sum, which rounding leaves a little off 1, a draw below 1 always finds a token.
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]
