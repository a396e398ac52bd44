"""A model directory, of the pipeline or of others, as something that reads and writes text."""

from pathlib import Path

import torch

from gpt2 import weights
from gpt2.device import DeviceParams, Runtime, choose_runtime
from gpt2.generation import SamplingParams, TextModel, generate
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer


def load(directory: Path, params: DeviceParams) -> TextModel:
    """The model of a Hugging Face GPT-2 directory, on its device.

    Raises:
        UserError: the directory is damaged or not that of a GPT-2, or the device is not there.
    """
    runtime = choose_runtime(params)
    model = weights.load(directory, foreign=True)
    tokenizer = weights.load_tokenizer(directory, model)
    return TextModel(model.to(runtime.device), tokenizer, runtime)


def exact_continuation(model: GPT2, tokenizer: Tokenizer, text: str) -> str:
    """Twenty tokens at most after ``text``, or as much of it as fits the context: the likeliest, in
    float32 on the CPU, so that every machine gives the same."""
    ids = tokenizer.encode(text)[: model.config.context_length - 1]
    exact = Runtime(torch.device("cpu"), torch.float32)
    greedy = SamplingParams(max_new_tokens=20)
    [continuation] = generate(model, [ids], greedy, tokenizer.end_of_text, exact)
    return tokenizer.decode(continuation)
