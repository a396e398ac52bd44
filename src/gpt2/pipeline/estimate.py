"""What training takes, before anything runs: parameters, arithmetic, memory and time.

All of it is "about": memory came within a tenth where it was measured; time is that of a machine
that does nothing else.
"""

import math
from dataclasses import dataclass

import torch

from gpt2.core.device import Runtime
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model.attention import BLOCK
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.loss import CHUNK_BYTES
from gpt2.training.flops import (
    Speed,
    block_matrices,
    muon_flops,
    recomputed_flops,
    steps_seconds,
    timed,
    token_flops,
)
from gpt2.training.params import TrainParams

FORWARD = 1 / 3
"""Of the arithmetic of training: an evaluation has no gradients, which cost twice as much."""
PROCESS = 600 * 2**20
"""Bytes of Python, torch, MLflow and what they load at the first step; not in a GPU's memory."""
SHAPES = 100 * 2**20
"""Bytes of kernels that a CPU keeps where every batch has another shape. Both are what the
starter's stages took beside their arrays."""


@dataclass(frozen=True)
class Batches:
    """What a stage trains on."""

    steps: int
    tokens: float
    """In all steps."""
    in_memory: float
    """At once, at most."""
    length: int
    """Tokens of the longest sequence."""
    counted: float = 1.0
    """Part of the tokens whose successor is learned: only they pass the output layer."""
    evaluated: float = 0.0
    """Tokens read for the validation loss, in all evaluations."""


def parameters(config: GPT2Config) -> int:
    """Numbers that are learned: embeddings, blocks, the last norm, and an output layer of its own,
    if there is one."""
    C, V = config.n_embd, config.vocab_size
    around = (V + config.context_length) * C + 2 * C
    return around + config.n_layer * _block(config) + (0 if config.tie_word_embeddings else V * C)


def training_flops(config: GPT2Config, params: TrainParams, batches: Batches) -> float:
    """Floating-point operations of a stage's training, evaluations included; Muon's updates not."""
    mean_length = _mean_length(params, batches)
    a_token = token_flops(config, mean_length, batches.counted)
    again = recomputed_flops(config, mean_length) if params.activation_checkpointing else 0
    return batches.tokens * (a_token + again) + batches.evaluated * a_token * FORWARD


def training_seconds(
    config: GPT2Config, params: TrainParams, batches: Batches, speed: Speed, dtype: torch.dtype
) -> float:
    """How long a stage trains and evaluates on a machine of this speed; products in ``dtype``."""
    passes = math.ceil(params.batch_size / (params.micro_batch_size or params.batch_size))
    tokens = batches.tokens + batches.evaluated * FORWARD
    return steps_seconds(
        *(config, speed),
        flops=training_flops(config, params, batches),
        tokens=tokens,
        counted=tokens * batches.counted,
        steps=batches.steps,
        passes=passes * batches.steps,
        muon=muon_flops(config, dtype) if params.optimizer == "muon" else 0,
    )


def training_memory(
    config: GPT2Config,
    params: TrainParams,
    batches: Batches,
    runtime: Runtime,
    keep_best: bool = False,
) -> float:
    """Peak bytes while training: of the GPU, or of the process.

    ``keep_best``: the best weights so far are kept beside the last ones.
    """
    C, L, N = config.n_embd, config.n_layer, parameters(config)
    half, size = _half(runtime), runtime.dtype.itemsize
    matrices = block_matrices(config) * L
    tokens = batches.in_memory
    by_muon = matrices if params.optimizer == "muon" else 0
    weights = 4 * N + 4 * N + (4 * N if keep_best else 0)  # with their gradients
    optimizer = 8 * N - 4 * by_muon  # two moments; Muon has one
    copies = 2 * (matrices + config.vocab_size * C) if half else 0
    # Kept for the gradient, bytes a channel and token: two inputs of norms in float32, and in the
    # format of the products the inputs of six of them: three of C, one of 3 C, two inside the MLP.
    a_block: float = tokens * (8 * C + size * (6 * C + 2 * config.mlp_width))
    if config.dropout:
        a_block += tokens * C * 2
    if runtime.device.type == "cpu":  # attention keeps its weights there, and which were left out
        weights_kept = tokens * config.n_head * (batches.length + BLOCK) / 2 * size
        a_block += 2 * weights_kept if config.dropout else weights_kept
    kept = tokens * C * 4 * L + a_block if params.activation_checkpointing else L * a_block
    chunk = min(tokens * batches.counted, CHUNK_BYTES / size / config.vocab_size)
    output = config.vocab_size * (size * chunk + 8 * C)  # logits, and the embedding's gradient
    around = _process(runtime)
    if around and _mean_length(params, batches) < batches.length:
        around += SHAPES
    return weights + optimizer + copies + kept + output + around


def generation_memory(config: GPT2Config, rows: int, places: int, runtime: Runtime) -> float:
    """Peak bytes while ``rows`` texts of ``places`` tokens at most are written side by side."""
    on_cpu = runtime.device.type == "cpu"
    copies = runtime.dtype.itemsize * parameters(config) if on_cpu or _half(runtime) else 0
    cached = 4 if on_cpu else runtime.dtype.itemsize  # bytes a number: see `generation.Decoder`
    cache = 2 * rows * places * config.n_layer * config.n_embd * cached
    logits = rows * config.vocab_size * 8
    return 4 * parameters(config) + copies + cache + logits + _process(runtime)


def measured_token_seconds(config: GPT2Config, rows: int, runtime: Runtime) -> float:
    """Seconds to add one token to each of ``rows`` texts, measured with one layer and three."""
    one, three = (_decoding(config, layers, rows, runtime) for layers in (1, 3))
    return one + (config.n_layer - 1) * max(0.0, three - one) / 2


def _decoding(config: GPT2Config, layers: int, rows: int, runtime: Runtime) -> float:
    with torch.device("meta"):
        model = GPT2(config.model_copy(update={"n_layer": layers}))
    model.to_empty(device=runtime.device)
    for parameter in model.parameters():
        parameter.detach().zero_()
    nothing = config.vocab_size  # no token ends a text

    def write(tokens: int) -> float:
        sampling = SamplingParams(max_new_tokens=tokens)
        texts = [[0]] * rows
        return timed(lambda: generate(model, texts, sampling, nothing, runtime, rows), runtime)

    write(1)
    one, six = (min(write(tokens) for _ in range(3)) for tokens in (1, 6))
    return max(0.0, six - one) / 5


def _block(config: GPT2Config) -> int:
    """Two norms, and the four matrices with their biases."""
    return block_matrices(config) + 9 * config.n_embd + config.mlp_width


def _mean_length(params: TrainParams, batches: Batches) -> float:
    return min(batches.length, batches.tokens / batches.steps / params.batch_size)


def _half(runtime: Runtime) -> bool:
    return runtime.dtype != torch.float32


def _process(runtime: Runtime) -> int:
    return PROCESS if runtime.device.type == "cpu" else 0
