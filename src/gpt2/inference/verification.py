"""Checks that a checkpoint from elsewhere was loaded correctly: its size, and a continuation.

A GPT-2 whose weights were loaded correctly continues `PROMPT` with sensible text.
"""

from pathlib import Path
from typing import Any

import torch

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.model_files import WEIGHTS
from gpt2.data.fetching.hub import RELEASES
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.gpt2 import GPT2

PROMPT = "Hello, I'm a language model,"
"""The prompt of the continuation that a reader can check."""


def verify(directory: Path, size: str) -> dict[str, Any]:
    """Load the downloaded checkpoint in ``directory``; return its size and a continuation.

    `weights.load` checks that every tensor of the file is used once and every parameter is set.

    Args:
        directory: a Hugging Face GPT-2 checkpoint.
        size: the release of OpenAI's that it must be (see `check_size`).

    Returns:
        ``bytes``, ``parameters`` and ``continuation``, for the metrics.

    Raises:
        UserError: it is not a GPT-2, not of this size, or its tokenizer does not fit.
    """
    model = weights.load(directory, foreign=True)
    parameters = weights.count_parameters(model)
    check_size(model, parameters, size)
    tokenizer = weights.load_tokenizer(directory, model)
    weights.check_vocabulary(tokenizer, model, "gpt2_weights")
    return {
        "bytes": (directory / WEIGHTS).stat().st_size,
        "parameters": parameters,
        "continuation": exact_continuation(model, tokenizer, PROMPT),
    }


def check_size(model: GPT2, parameters: int, size: str) -> None:
    """Raise `UserError` unless ``model`` has the shape of OpenAI's release ``size``.

    Any shape passes for a size that is not in `RELEASES` (``any``).
    """
    release = RELEASES.get(size)
    if release is None:
        return
    found = {**model.config.model_dump(), "parameters": parameters}
    problems = [
        f"{key} is {found[key]:,}, not {getattr(release, key):,}"
        for key in ("n_layer", "n_head", "n_embd", "parameters")
        if found[key] != getattr(release, key)
    ]
    if problems:
        raise UserError(
            f"gpt2_weights.size: the checkpoint is not GPT-2 {size}: {', '.join(problems)}. "
            "Set its size, or any"
        )


def exact_continuation(model: GPT2, tokenizer: Tokenizer, text: str) -> str:
    """Up to 20 tokens after ``text``, greedy, in float32 on the CPU: the same on every machine.

    A text that is longer than the context is cut at its end.
    """
    ids = tokenizer.encode(text)[: model.config.context_length - 1]
    exact = Runtime(torch.device("cpu"), torch.float32)
    greedy = SamplingParams(max_new_tokens=20)
    [continuation] = generate(model, [ids], greedy, tokenizer.end_of_text, exact)
    return tokenizer.decode(continuation)
