"""No path computes in a dtype that the device would have to emulate.

Without native bfloat16, a matrix product in it takes fifty times as long as in float32, and Metal
has no float64 at all.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2.core.device import Runtime
from gpt2.data.batch import Batch
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams, next_token_probabilities
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.loss import evaluate, loss_sum
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import train_step

CONFIG = GPT2Config(vocab_size=96, context_length=32, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
BFLOAT16 = Runtime(torch.device("cpu"), torch.bfloat16)


class Dtypes(TorchDispatchMode):
    """Collects the dtypes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.dtype, set[str]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor):
                self.seen.setdefault(leaf.dtype, set()).add(str(operation))
        return result


def windows() -> Batch:
    ids = torch.randint(CONFIG.vocab_size, (3, CONFIG.context_length + 1))
    return Batch(ids[:, :-1], ids[:, 1:])


def ragged() -> Batch:
    ids = torch.randint(CONFIG.vocab_size, (1, 21))
    return Batch(ids[:, :-1], ids[:, 1:], torch.tensor([7, 1, 12]))


def training(batch: Callable[[], Batch], optimizer: str, runtime: Runtime) -> Iterator[None]:
    """Two steps, as the first update has no momentum yet."""
    params = TrainParams(batch_size=3, lr=1e-3, optimizer=optimizer)
    state = TrainState.create(GPT2(CONFIG).train(), params, runtime)
    for _ in range(2):
        train_step(state, [batch()], loss_sum, runtime, params.grad_clip)
        yield


def evaluation(runtime: Runtime) -> Iterator[None]:
    evaluate(GPT2(CONFIG), [windows(), ragged()], runtime)
    yield


def writing(runtime: Runtime, temperature: float) -> Iterator[None]:
    sampling = SamplingParams(max_new_tokens=4, temperature=temperature, top_k=5, top_p=0.9)
    generate(GPT2(CONFIG).eval(), [[1, 2, 3], [4]], sampling, 0, runtime)
    yield


PATHS: dict[str, Callable[[Runtime], Iterator[None]]] = {
    "pretraining, AdamW": lambda runtime: training(windows, "adamw", runtime),
    "pretraining, Muon": lambda runtime: training(windows, "muon", runtime),
    "finetuning, AdamW": lambda runtime: training(ragged, "adamw", runtime),
    "finetuning, Muon": lambda runtime: training(ragged, "muon", runtime),
    "evaluation": evaluation,
    "generation, greedy": lambda runtime: writing(runtime, 0.0),
    "generation, sampled": lambda runtime: writing(runtime, 0.8),
}


@pytest.mark.parametrize("path", PATHS)
def test_in_float32_nothing_touches_bfloat16(path: str) -> None:
    with Dtypes() as dtypes:
        list(PATHS[path](FLOAT32))
    assert torch.float32 in dtypes.seen
    assert dtypes.seen.keys() & {torch.bfloat16, torch.float16} == set()


@pytest.mark.parametrize("path", PATHS)
def test_the_same_paths_use_bfloat16_if_it_is_chosen(path: str) -> None:
    with Dtypes() as dtypes:
        list(PATHS[path](BFLOAT16))
    assert torch.bfloat16 in dtypes.seen


@pytest.mark.parametrize("path", [path for path in PATHS if "sampled" not in path])
def test_nothing_touches_float64(path: str) -> None:
    with Dtypes() as dtypes:
        list(PATHS[path](FLOAT32))
    assert torch.float64 not in dtypes.seen


def test_probabilities_become_float64_only_once_they_have_left_the_device() -> None:
    sampling = SamplingParams(max_new_tokens=1, temperature=0.8, top_k=5, top_p=0.9)
    with Dtypes() as dtypes:
        next_token_probabilities(torch.randn(2, 96), sampling)
    assert torch.float64 not in dtypes.seen
