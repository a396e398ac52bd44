"""A text model: one continuation, several, and the deadline."""

import time

import pytest
import torch

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.text_model import ContinuationParams, TextModel
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2


@pytest.fixture(scope="module")
def model() -> TextModel:
    torch.manual_seed(2)
    tokenizer = train_bpe(["Once upon a time, naïve 中文."] * 2, 300)
    shape = {"context_length": 24, "n_layer": 1, "n_head": 2, "n_embd": 32}
    model = GPT2(GPT2Config(vocab_size=tokenizer.n_vocab, **shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return TextModel(model, tokenizer, Runtime(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("text", ["Once", "", "Once upon a time, " * 20])
def test_several_continuations_are_independent(model: TextModel, text: str) -> None:
    """With more texts than are generated side by side."""
    params = ContinuationParams(max_new_tokens=30, temperature=1.0, num_return_sequences=70)
    found = model.continuations(text, params)
    assert len(found) == 70
    assert len(set(found)) > 60
    assert found[0] == "".join(model.continuation(text, params))
    fewer = params.model_copy(update={"num_return_sequences": 3})
    assert model.continuations(text, fewer) == found[:3]


def test_errors_are_raised_before_the_first_piece(model: TextModel) -> None:
    strict = ContinuationParams(max_new_tokens=1, strict=True)
    with pytest.raises(UserError, match="the prompt has"):
        model.continuation("Once upon a time, " * 20, strict)
    with pytest.raises(UserError, match="surrogate"):
        model.continuation("\ud800", strict)


def test_generation_ends_at_the_deadline(model: TextModel) -> None:
    params = ContinuationParams(max_new_tokens=10**9, repetition_penalty=1.1)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        model.continuations("Once", params, deadline=start + 0.3)
    assert time.monotonic() < start + 30


@pytest.mark.parametrize("temperature", [0.0, 1e-40])
def test_greedy_decoding_gives_one_text_only(temperature: float) -> None:
    values = {"max_new_tokens": 1, "temperature": temperature, "num_return_sequences": 2}
    with pytest.raises(UserError, match="num_return_sequences=2 needs a temperature above 0"):
        parse(ContinuationParams, values, "options")
