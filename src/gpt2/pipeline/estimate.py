"""Estimates of what training and generation take: parameters, FLOPs, memory and time.

Measured peak memory was within 10% of the estimate. Times assume an otherwise idle machine.
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
"""The forward pass's share of a training step's FLOPs: the backward pass takes twice as many."""
PROCESS = 600 * 2**20
"""Bytes of Python, torch, MLflow and all that they load by the first step; not in GPU memory."""
SHAPES = 100 * 2**20
"""Bytes of CPU kernels that are kept for further shapes if batches differ in shape. Both values are
what the starter profile's stages used in addition to their arrays."""


@dataclass(frozen=True)
class Batches:
    """The batches of a training stage."""

    steps: int
    tokens: float
    """Tokens in all steps together."""
    in_memory: float
    """Most tokens of a micro-batch."""
    length: int
    """Tokens of the longest sequence."""
    counted: float = 1.0
    """Fraction of the tokens that are used in the loss: only they go through the output layer."""
    evaluated: float = 0.0
    """Tokens of all evaluations of the validation loss together."""


def parameters(config: GPT2Config) -> int:
    """Number of parameters: embeddings, blocks, the last norm, and an untied output layer."""
    C, V = config.n_embd, config.vocab_size
    outside_blocks = (V + config.context_length) * C + 2 * C
    output_layer = 0 if config.tie_word_embeddings else V * C
    return outside_blocks + config.n_layer * _block(config) + output_layer


def training_flops(config: GPT2Config, params: TrainParams, batches: Batches) -> float:
    """FLOPs of a stage's training steps and evaluations, without Muon's updates."""
    mean_length = _mean_length(params, batches)
    per_token = token_flops(config, mean_length, batches.counted)
    recomputed = recomputed_flops(config, mean_length) if params.activation_checkpointing else 0
    return batches.tokens * (per_token + recomputed) + batches.evaluated * per_token * FORWARD


def training_seconds(
    config: GPT2Config, params: TrainParams, batches: Batches, speed: Speed, dtype: torch.dtype
) -> float:
    """Seconds of training and evaluation at this ``speed``, with matrix products in ``dtype``."""
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
    """Peak bytes during training: on the GPU, or of the process.

    ``keep_best``: a copy of the best weights so far is kept, too.
    """
    C, L, N = config.n_embd, config.n_layer, parameters(config)
    half, size = _half(runtime), runtime.dtype.itemsize
    matrices = block_matrices(config) * L
    tokens = batches.in_memory
    by_muon = matrices if params.optimizer == "muon" else 0
    weights = 4 * N + 4 * N + (4 * N if keep_best else 0)  # and their gradients
    optimizer = 8 * N - 4 * by_muon  # AdamW keeps two moments, Muon one
    copies = 2 * (matrices + config.vocab_size * C) if half else 0
    # Activations that a block keeps for the backward pass, per token: the inputs of two norms in
    # float32, and the inputs of six products in their dtype: 3 of C, 1 of 3 C, 2 in the MLP.
    block: float = tokens * (8 * C + size * (6 * C + 2 * config.mlp_width))
    if config.dropout:
        block += tokens * C * 2
    if runtime.device.type == "cpu":  # it keeps the attention weights, and which were dropped out
        weights_kept = tokens * config.n_head * (batches.length + BLOCK) / 2 * size
        block += 2 * weights_kept if config.dropout else weights_kept
    kept = tokens * C * 4 * L + block if params.activation_checkpointing else L * block
    chunk = min(tokens * batches.counted, CHUNK_BYTES / size / config.vocab_size)
    output = config.vocab_size * (size * chunk + 8 * C)  # logits, and the gradient of the embedding
    process = _process(runtime)
    if process and _mean_length(params, batches) < batches.length:
        process += SHAPES
    return weights + optimizer + copies + kept + output + process


def generation_memory(config: GPT2Config, rows: int, positions: int, runtime: Runtime) -> float:
    """Peak bytes while ``rows`` texts of up to ``positions`` tokens are generated at once."""
    on_cpu = runtime.device.type == "cpu"
    copies = runtime.dtype.itemsize * parameters(config) if on_cpu or _half(runtime) else 0
    cached = 4 if on_cpu else runtime.dtype.itemsize  # bytes per number, see `generation.Decoder`
    cache = 2 * rows * positions * config.n_layer * config.n_embd * cached
    logits = rows * config.vocab_size * 8
    return 4 * parameters(config) + copies + cache + logits + _process(runtime)


def measured_token_seconds(config: GPT2Config, rows: int, runtime: Runtime) -> float:
    """Seconds to add one token to each of ``rows`` texts, measured with one layer and three."""
    one, three = (_decoding(config, layers, rows, runtime) for layers in (1, 3))
    return one + (config.n_layer - 1) * max(0.0, three - one) / 2


def _decoding(config: GPT2Config, layers: int, rows: int, runtime: Runtime) -> float:
    """Seconds per step of a model with this many layers and zero weights."""
    with torch.device("meta"):
        model = GPT2(config.model_copy(update={"n_layer": layers}))
    model.to_empty(device=runtime.device)
    for parameter in model.parameters():
        parameter.detach().zero_()
    no_end = config.vocab_size  # not the ID of a token, so that no text ends early

    def seconds(tokens: int) -> float:
        sampling = SamplingParams(max_new_tokens=tokens)
        texts = [[0]] * rows
        return timed(lambda: generate(model, texts, sampling, no_end, runtime, rows), runtime)

    seconds(1)
    one, six = (min(seconds(tokens) for _ in range(3)) for tokens in (1, 6))
    return max(0.0, six - one) / 5


def _block(config: GPT2Config) -> int:
    """Parameters of a block: two norms, and four matrices with their biases."""
    return block_matrices(config) + 9 * config.n_embd + config.mlp_width


def _mean_length(params: TrainParams, batches: Batches) -> float:
    return min(batches.length, batches.tokens / batches.steps / params.batch_size)


def _half(runtime: Runtime) -> bool:
    return runtime.dtype != torch.float32


def _process(runtime: Runtime) -> int:
    return PROCESS if runtime.device.type == "cpu" else 0
