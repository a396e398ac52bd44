"""How a GPT-2 is pretrained, and which weights it starts from (tutorial part 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.params import Positive
from gpt2.data.batch import Batch
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.config import Architecture, GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.checkpoint import RunDirectory, SharedState, code_digest
from gpt2.training.execution import compiles
from gpt2.training.history import History
from gpt2.training.loss import Evaluation
from gpt2.training.params import TrainParams


class PretrainParams(TrainParams):
    """How the model is pretrained."""

    initial_weights: Literal["none", "data/models/gpt2"] = "none"
    """none: random weights. Otherwise training starts from that model, with its vocabulary."""
    model: Architecture
    """With initial weights their shape; ``context_length`` may be shorter, ``dropout`` any."""
    steps: Positive
    """Optimizer steps."""
    prompts: list[str]
    """Texts that the model continues at each evaluation."""
    sampling: SamplingParams
    """How it continues them."""


def initial_model(
    architecture: Architecture, tokenizer: Tokenizer, initial_weights: Path | None
) -> GPT2:
    """The model to train, with random weights or those of the model in ``initial_weights``.

    Raises:
        UserError: as `load_initial`.
    """
    if initial_weights is not None:
        return load_initial(initial_weights, architecture, tokenizer)
    return GPT2(GPT2Config(vocab_size=tokenizer.n_vocab, **architecture.model_dump()))


def load_initial(directory: Path, wanted: Architecture, tokenizer: Tokenizer) -> GPT2:
    """The model in ``directory``, with its context cut to that of ``wanted``.

    Raises:
        UserError: its shape is not ``wanted``, or the tokens have another vocabulary.
    """
    model = weights.load(directory, wanted.dropout)
    if weights.load_tokenizer(directory, model).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the tokens are not of the vocabulary of {directory}. Run: dvc repro tokenize"
        )
    if problem := other_shape(wanted, model.config):
        raise UserError(problem)
    if wanted.context_length < model.config.context_length:
        _crop(model, wanted.context_length)
    return model


def _crop(model: GPT2, context_length: int) -> None:
    """Keep the first positions only, as nanoGPT's ``crop_block_size`` does."""
    model.config = model.config.model_copy(update={"context_length": context_length})
    model.wpe.weight = nn.Parameter(model.wpe.weight.detach()[:context_length].clone())


def other_shape(wanted: Architecture, found: Architecture) -> str | None:
    """The error message if ``wanted`` is not the shape of the initial weights, ``found``; it has
    the line to write. Only the context may differ: it may be shorter."""
    keys = ("n_layer", "n_head", "n_embd")
    if wanted.context_length <= found.context_length and all(
        getattr(wanted, key) == getattr(found, key) for key in keys
    ):
        return None
    shape = ", ".join(f"{key}: {getattr(found, key)}" for key in ("context_length", *keys))
    return (
        "pretrain.model: not the shape of pretrain.initial_weights. "
        f"Write {{{shape}, dropout: {wanted.dropout}}}; context_length may be less"
    )


def micro_batches(batch: Batch, size: int | None) -> list[Batch]:
    """``batch`` split into micro-batches of ``size`` sequences; None: a single one."""
    rows = len(batch.inputs)
    size = size or rows
    slices = [slice(start, start + size) for start in range(0, rows, size)]
    return [Batch(batch.inputs[rows], batch.targets[rows]) for rows in slices]


def run_directories(
    root: Path, params: PretrainParams, device: torch.device, inputs: Mapping[str, str]
) -> tuple[RunDirectory, SharedState]:
    """Where a run keeps its checkpoints, and the state that a run with more steps resumes from.

    ``inputs``: digests of everything else that the result depends on, by name.
    """
    fingerprint = {"params": params.model_dump(), "code": code_digest(), **inputs}
    any_steps = {
        "params": params.model_dump(exclude={"steps"}),
        "compile": compiles(params, device, params.steps),
    }
    return (
        RunDirectory(root, "pretrain", fingerprint),
        SharedState(root, "pretrain", fingerprint | any_steps),
    )


def sample_text(
    model: GPT2,
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    runtime: Runtime,
) -> str:
    """The prompts and how the model continues them, as one text."""
    continued = generate(
        model,
        [tokenizer.encode(prompt) for prompt in prompts],
        sampling,
        tokenizer.end_of_text,
        runtime,
        tokenizer=tokenizer,
    )
    texts = [prompt + tokenizer.decode(ids) for prompt, ids in zip(prompts, continued, strict=True)]
    return "\n\n---\n\n".join(texts) + "\n"


def metrics(model: GPT2, history: History, validation: Tokens, epochs: float) -> dict[str, Any]:
    """The metrics of a completed run; ``epochs``: how often it saw the training tokens."""
    result = Evaluation(history.evaluations[-1]["val_loss"], len(validation) - 1)
    return {
        "val_loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte(validation.text_bytes),
        "parameters": weights.count_parameters(model),
        "epochs": epochs,
        "train_tokens": history.tokens,
    }


def facts(
    params: PretrainParams, history: History, tokenizer: Tokenizer, parent: Mapping[str, str]
) -> dict[str, Any]:
    """Where a model came from, for its ``training.json``; ``parent``: the digest of the initial
    weights, if there are any."""
    return {
        "stage": "pretrain",
        **parent,
        "tokens_seen": history.tokens,
        "val_loss": history.evaluations[-1]["val_loss"],
        "tokenizer": tokenizer.fingerprint,
        "params": params.model_dump(),
    }
