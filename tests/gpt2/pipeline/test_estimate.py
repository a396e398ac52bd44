"""Estimates compared with the model itself: its parameters, counted FLOPs and real memory."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from gpt2.core.device import Runtime
from gpt2.data.batch import Batch
from gpt2.data.fetching.hub import RELEASES
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.pipeline import estimate
from gpt2.pipeline.estimate import Batches
from gpt2.training.execution import checkpoint_activations
from gpt2.training.flops import Speed, muon_flops, steps_seconds
from gpt2.training.loss import loss_sum
from gpt2.training.optim import make_optimizers
from gpt2.training.params import TrainParams
from scripts.deps import ROOT

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Runtime(CPU, torch.float32), Runtime(CPU, torch.bfloat16)
# The vocabulary is a multiple of `loss.ALIGNMENT`: what fills others up is not counted.
SMALL = GPT2Config(context_length=64, n_layer=2, n_head=2, n_embd=32, vocab_size=320)

OTHERS = SMALL.model_copy(update={"n_inner": 48, "tie_word_embeddings": False})
"""Settings that only imported models have."""


def params(**values: object) -> TrainParams:
    return TrainParams(**{"batch_size": 4, "lr": 1e-3, **values})


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        GPT2Config(context_length=256, n_layer=4, n_head=4, n_embd=256, vocab_size=4096),
        GPT2Config(context_length=8, n_layer=1, n_head=1, n_embd=1, vocab_size=301),
        OTHERS,
    ],
)
def test_parameters_are_those_of_the_model(config: GPT2Config) -> None:
    with torch.device("meta"):
        model = GPT2(config)
    assert estimate.parameters(config) == sum(t.numel() for t in model.parameters())


def test_parameters_are_those_of_the_releases() -> None:
    for release in RELEASES.values():
        shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
        config = GPT2Config(context_length=1024, vocab_size=50_257, **shape)
        assert estimate.parameters(config) == release.parameters


@pytest.mark.parametrize("config", [SMALL, OTHERS])
@pytest.mark.parametrize(
    ("again", "optimizer"), [(False, "adamw"), (True, "adamw"), (False, "muon")]
)
def test_flops_are_what_torch_counts(config: GPT2Config, again: bool, optimizer: str) -> None:
    settings = params(activation_checkpointing=again, optimizer=optimizer)
    model = GPT2(config)
    if again:
        checkpoint_activations(model)
    optimizers = make_optimizers(model, settings)
    ids = torch.randint(SMALL.vocab_size, (4, 64))
    # The counter does not know in-place products.
    in_place = {torch.ops.aten.baddbmm_: lambda out, a, b, **_: bmm_flop(a, b)}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss_sum(model, Batch(ids, ids)).backward()
        for one in optimizers:
            one.step()
    batches = Batches(steps=1, tokens=256, in_memory=256, length=64)
    updates = muon_flops(config, torch.float32) if optimizer == "muon" else 0
    estimated = estimate.training_flops(config, settings, batches) + updates
    assert estimated == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_an_evaluation_costs_a_third_and_a_prompt_no_output_layer() -> None:
    whole = Batches(steps=10, tokens=2560, in_memory=256, length=64)
    read = Batches(steps=10, tokens=2560, in_memory=256, length=64, evaluated=2560)
    flops = estimate.training_flops(SMALL, params(), whole)
    assert estimate.training_flops(SMALL, params(), read) == pytest.approx(flops * 4 / 3)
    few = Batches(steps=10, tokens=2560, in_memory=256, length=64, counted=0.25)
    saved = 6 * 320 * 32 * 2560 * 0.75
    assert flops - estimate.training_flops(SMALL, params(), few) == pytest.approx(saved)


def test_time_includes_evaluations() -> None:
    speed = Speed(products=1e9, sum=1e-9, call=1e-4)
    read = Batches(steps=10, tokens=2560, in_memory=256, length=64, counted=0.5, evaluated=2560)
    settings = params(optimizer="muon", micro_batch_size=3)  # 4 sequences: two passes
    assert estimate.training_seconds(SMALL, settings, read, speed, torch.float32) == steps_seconds(
        *(SMALL, speed),
        flops=estimate.training_flops(SMALL, settings, read),
        tokens=2560 * 4 / 3,
        counted=1280 * 4 / 3,
        steps=10,
        passes=20,
        muon=muon_flops(SMALL, torch.float32),
    )


TRAINED = """
import json, sys, torch
import mlflow, pandas  # as a stage does
from gpt2.data.batch import Batch
from gpt2.core.device import choose_runtime, peak_memory_mib
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.execution import checkpoint_activations
from gpt2.training.loss import loss_sum
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import train_step

config, settings = GPT2Config(**json.loads(sys.argv[1])), TrainParams(**json.loads(sys.argv[2]))
runtime, model = choose_runtime(settings), GPT2(config).train()
if settings.activation_checkpointing:
    checkpoint_activations(model)
state = TrainState.create(model, settings, runtime)
for _ in range(2):
    ids = torch.randint(config.vocab_size, (settings.batch_size, config.context_length))
    train_step(state, [Batch(ids, ids)], loss_sum, runtime, settings.grad_clip)
print(int(peak_memory_mib(runtime.device) * 2**20))
"""


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ({"dropout": 0.1, "n_head": 8}, {"dtype": "bfloat16", "optimizer": "muon"}),
        ({"vocab_size": 20_000}, {"dtype": "float32", "activation_checkpointing": True}),
    ],
)
def test_memory_is_about_what_a_process_takes(
    shape: dict[str, int], settings: dict[str, object]
) -> None:
    shape = {"n_layer": 6, "n_head": 4, "n_embd": 256, "vocab_size": 2000, **shape}
    shape["context_length"] = 256
    settings = {"batch_size": 8, "lr": 1e-3, "device": "cpu", **settings}
    process = subprocess.run(
        [sys.executable, "-c", TRAINED, json.dumps(shape), json.dumps(settings)],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    runtime = FLOAT32 if settings["dtype"] == "float32" else BFLOAT16
    batches = Batches(steps=2, tokens=2 * 8 * 256, in_memory=8 * 256, length=256)
    estimated = estimate.training_memory(
        GPT2Config(**shape), TrainParams(**settings), batches, runtime
    )
    assert estimated == pytest.approx(int(process.stdout), rel=0.25)


def test_time_per_token_is_measured() -> None:
    assert estimate.measured_token_seconds(SMALL, 2, FLOAT32) < 60


def test_generation_holds_the_weights_and_the_cache() -> None:
    few = estimate.generation_memory(SMALL, 1, 64, FLOAT32)
    many = estimate.generation_memory(SMALL, 101, 64, FLOAT32)
    assert few > 4 * estimate.parameters(SMALL) + estimate.PROCESS
    assert many - few == 100 * (2 * 64 * 2 * 32 * 4 + 320 * 8)
