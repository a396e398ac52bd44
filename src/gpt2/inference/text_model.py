"""A text model: a GPT-2 with its tokenizer and its device, which continues text.

It loads any model directory, of this pipeline or from elsewhere.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from gpt2.core.device import DeviceParams, Runtime, choose_runtime
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.generation.decoder import Decoder
from gpt2.inference.generation.loop import check_prompts, generate_interleaved
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.gpt2 import GPT2

ROWS = 32
"""Texts generated side by side."""


class ContinuationParams(SamplingParams):
    """How a text is continued, and how many continuations are generated."""

    num_return_sequences: Annotated[int, Field(gt=0, le=1024)] = 1
    """Independent continuations of the same text. With temperature 0 there is only one."""

    @model_validator(mode="after")
    def _several_are_drawn(self) -> Self:
        if self.greedy and self.num_return_sequences > 1:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs a temperature above 0: "
                "greedy decoding gives the same text each time"
            )
        return self


@dataclass(frozen=True)
class TextModel:
    """A model that continues text: with its tokenizer, on its device."""

    model: GPT2
    tokenizer: Tokenizer
    runtime: Runtime

    def continuation(self, text: str, sampling: SamplingParams) -> Iterator[str]:
        """The text after ``text``, in pieces as they are generated.

        An empty text starts a new document.

        Raises:
            UserError: as `generation.loop.generate`; at the call, not at the first piece.
        """
        tokens = self._generate(text, sampling, 1)
        return self.tokenizer.decode_stream(token for _, token in tokens if token is not None)

    def continuations(
        self, text: str, params: ContinuationParams, deadline: float = math.inf
    ) -> list[str]:
        """``num_return_sequences`` continuations; the first is the one of `continuation`.

        Raises:
            UserError: as `continuation`.
            TimeoutError: they were not finished when `time.monotonic` reached the ``deadline``.
        """
        texts: list[list[int]] = [[] for _ in range(params.num_return_sequences)]
        for index, token in self._generate(text, params, params.num_return_sequences):
            if time.monotonic() > deadline:
                raise TimeoutError
            if token is not None:
                texts[index].append(token)
        return ["".join(self.tokenizer.decode_stream(ids)) for ids in texts]

    def _generate(
        self, text: str, sampling: SamplingParams, times: int
    ) -> Iterator[tuple[int, int | None]]:
        end = self.tokenizer.end_of_text
        ids = self.tokenizer.encode(text) or [self.tokenizer.start_of_text]
        check_prompts([ids], self.model.config.context_length, sampling.strict)
        prompts = [ids] * times
        return generate_interleaved(self._decoder, prompts, sampling, end, ROWS, self.tokenizer)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.model, self.runtime)


def load(directory: Path, params: DeviceParams) -> TextModel:
    """Load a Hugging Face GPT-2 directory onto a device.

    Raises:
        UserError: the directory is damaged or not a GPT-2's, or the device is not available.
    """
    runtime = choose_runtime(params)
    model = weights.load(directory, foreign=True)
    tokenizer = weights.load_tokenizer(directory, model)
    return TextModel(model.to(runtime.device), tokenizer, runtime)
