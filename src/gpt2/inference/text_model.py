"""A model directory, of the pipeline or of others, as something that reads and writes text."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from gpt2.core.device import DeviceParams, Runtime, choose_runtime
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation import Decoder, check_prompts, generate, write
from gpt2.inference.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.gpt2 import GPT2

PROMPT = "Hello, I'm a language model,"
"""Of the continuation that shows that a checkpoint was read as it is meant."""

ROWS = 32
"""Texts written side by side."""


class ContinuationParams(SamplingParams):
    """How a text is continued, and how often."""

    num_return_sequences: Annotated[int, Field(gt=0, le=1024)] = 1
    """Continuations of the same text, each drawn by itself; of temperature 0 there is only one."""

    @model_validator(mode="after")
    def _several_are_drawn(self) -> Self:
        if self.greedy and self.num_return_sequences > 1:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs a temperature above 0: "
                "without chance all texts are equal"
            )
        return self


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
        """What follows ``text``, in pieces as they come; an empty text begins a new document.

        Raises:
            UserError: as `generation.generate` does; at once, not at the first piece.
        """
        written = self._write(text, sampling, 1)
        return self.tokenizer.decode_stream(token for _, token in written if token is not None)

    def continuations(
        self, text: str, params: ContinuationParams, deadline: float = math.inf
    ) -> list[str]:
        """All that may follow ``text``; the first is what `continuation` gives.

        Raises:
            UserError: as `continuation` does.
            TimeoutError: they were not ready when `time.monotonic` gave the ``deadline``.
        """
        texts: list[list[int]] = [[] for _ in range(params.num_return_sequences)]
        for index, token in self._write(text, params, params.num_return_sequences):
            if time.monotonic() > deadline:
                raise TimeoutError
            if token is not None:
                texts[index].append(token)
        return ["".join(self.tokenizer.decode_stream(ids)) for ids in texts]

    def _write(
        self, text: str, sampling: SamplingParams, times: int
    ) -> Iterator[tuple[int, int | None]]:
        end = self.tokenizer.end_of_text
        ids = self.tokenizer.encode(text) or [self.tokenizer.start_of_text]
        check_prompts([ids], self.model.config.context_length, sampling.strict)
        return write(self._decoder, [ids] * times, sampling, end, ROWS, self.tokenizer)


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
