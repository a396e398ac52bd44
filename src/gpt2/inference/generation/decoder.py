"""A GPT-2 prepared for inference, with a KV cache: one new token per row and step.

On a GPU a decoding step is captured as a CUDA graph.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from threading import Lock

import torch
from torch import Tensor, nn

from gpt2.core.device import Runtime
from gpt2.inference.generation.packed_linear import PackedLinear
from gpt2.model.gpt2 import GPT2, MLP, CausalSelfAttention
from gpt2.model.kv_cache import CacheView, KVCache

SLOT_MULTIPLE = 128
"""On a GPU, attention reads a multiple of this many cache slots, so that few graphs are needed."""
_CAPTURING = Lock()
"""A process can capture only one CUDA graph at a time."""


class Decoder:
    """A GPT-2 prepared for inference: `PackedLinear` layers, everything else unchanged in float32.

    It holds copies of the weight matrices and shares all other parameters with the model. Make a
    new one after the model changes.
    """

    def __init__(self, model: GPT2, runtime: Runtime) -> None:
        self.config, self.runtime = model.config, runtime
        shared = {id(parameter): parameter for parameter in model.parameters()}
        self.model = deepcopy(model, shared).eval()

        def packed(linear: nn.Linear, gelu: str | None = None) -> PackedLinear:
            return PackedLinear(linear.weight, linear.bias, runtime, gelu)

        for name, module in [*self.model.named_modules()]:
            if isinstance(module, CausalSelfAttention):
                self.model.set_submodule(f"{name}.c_attn", packed(module.c_attn))
                self.model.set_submodule(f"{name}.c_proj", packed(module.c_proj))
            elif isinstance(module, MLP):
                gelu = module.activation if isinstance(module.activation, nn.GELU) else None
                first = packed(module.c_fc, gelu.approximate if gelu else None)
                others = [] if gelu else [module.activation]  # fused, or by itself
                mlp = nn.Sequential(first, *others, packed(module.c_proj))
                self.model.set_submodule(name, mlp)
        self.output = PackedLinear(model.output_weight, None, runtime)

    def cache(self, rows: int, slots: int) -> KVCache:
        """An empty cache. On a CPU it is float32, where attention is exact and also faster."""
        device, dtype = self.runtime.device, self.runtime.dtype
        like = torch.empty(0, device=device, dtype=torch.float32 if device.type == "cpu" else dtype)
        return KVCache(self.config, rows, slots, like)

    def step(self, rows: int, slots: int) -> "Step | CapturedStep":
        """A decoding step with a new cache of ``rows`` sequences, ``slots`` positions each."""
        on_gpu = self.runtime.device.type == "cuda"
        return CapturedStep(self, rows, slots) if on_gpu else Step(self, rows, slots)

    def features(self, ids: Tensor, cache: CacheView) -> Tensor:
        """``(B, T)`` ids to ``(B, T, C)`` features, as `GPT2.features`."""
        return self.model.features(ids.to(self.runtime.device), cache)

    def next_logits(self, ids: Tensor, cache: CacheView) -> Tensor:
        """``(B, 1)`` ids to the ``(B, V)`` logits of the next token."""
        out: Tensor = self.output(self.features(ids, cache)[:, 0])
        return out


class Step:
    """One decoding step: the newest token of each row in, the logits of the next one out."""

    def __init__(self, decoder: Decoder, rows: int, slots: int) -> None:
        self._decoder, self.cache = decoder, decoder.cache(rows, slots)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``(B, V)`` logits for the first B rows, whose newest tokens are at ``positions``."""
        view = CacheView(self.cache, torch.tensor(positions)[:, None])
        return self._decoder.next_logits(torch.tensor(tokens)[:, None], view)


class CapturedStep:
    """A `Step` as CUDA graphs: its kernels are captured once and then launched with a single call,
    instead of one by one from Python.

    A graph needs tensors of fixed address and shape. So every step computes all rows of the cache,
    and reads a multiple of `SLOT_MULTIPLE` cache slots. An unused row writes to its slot 0, which
    the next sequence in this row overwrites before it is read.
    """

    def __init__(self, decoder: Decoder, rows: int, slots: int) -> None:
        self._decoder = decoder
        self.cache = decoder.cache(rows, -(-slots // SLOT_MULTIPLE) * SLOT_MULTIPLE)
        self._tokens, self._positions = torch.zeros(
            2, rows, 1, dtype=torch.long, device=decoder.runtime.device
        )
        self._graphs: dict[int, Callable[[], Tensor]] = {}

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``(B, V)`` logits for the first B rows, whose newest tokens are at ``positions``."""
        unused = [0] * (len(self._tokens) - len(tokens))
        self._tokens.copy_(torch.tensor([*tokens, *unused])[:, None])
        self._positions.copy_(torch.tensor([*positions, *unused])[:, None])
        used = (max(positions) // SLOT_MULTIPLE + 1) * SLOT_MULTIPLE
        if used not in self._graphs:
            self._graphs[used] = _captured(partial(self._logits, used), self._tokens.device)
        return self._graphs[used]()[: len(tokens)]

    def _logits(self, used: int) -> Tensor:
        view = CacheView(self.cache, self._positions, used=used)
        return self._decoder.next_logits(self._tokens, view)


def _captured(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """``step`` as a CUDA graph, which writes its result to the same memory each time.

    The step must be idempotent: it runs once before it is captured. On other devices it is returned
    as it is.
    """
    if device.type != "cuda":
        return step
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    with _CAPTURING:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            step()  # warm-up: libraries initialise themselves at their first call
        torch.cuda.current_stream(device).wait_stream(stream)
        # thread_local: other threads may use the GPU during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
