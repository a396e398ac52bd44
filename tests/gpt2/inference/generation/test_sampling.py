"""Sampling compared with the logits processors of transformers, and at its extremes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.inference.generation.sampling import (
    GREEDY,
    SamplingParams,
    choose,
    next_token_probabilities,
)

V = 61
INFINITY = float("inf")
CHAINS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": V + 9},
    {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 1.0, "top_p": 0.0001},
    {"temperature": 1.0, "top_p": 1e-300},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 1.0, "repetition_penalty": 0.4},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.8},
    {"temperature": 3.0, "top_k": 30, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 2.0, "top_p": 0.97, "min_p": 0.01, "repetition_penalty": 3.0},
]


def params(**chain: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=1, **chain)


def rows(scale: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[list[int]]]:
    """Logits of four texts, and the texts, of equal length and with repeated tokens."""
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(4, V, generator=generator) * scale).to(dtype)
    return logits, torch.randint(V, (4, 40), generator=generator).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 2.0, 1e4])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_probabilities_are_those_of_the_processors(
    chain: dict[str, Any], scale: float, dtype: torch.dtype
) -> None:
    logits, texts = rows(scale, dtype)
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(chain.get("repetition_penalty", 1.0)),
            TemperatureLogitsWarper(chain["temperature"]),
            TopKLogitsWarper(chain.get("top_k", V)),
            TopPLogitsWarper(chain.get("top_p", 1.0)),
            MinPLogitsWarper(chain.get("min_p", 0.0)),
        ]
    )
    expected = processors(torch.tensor(texts), logits.float()).softmax(-1)
    found = next_token_probabilities(logits, params(**chain), texts)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_order_of_the_processors_is_that_of_transformers(chain: dict[str, Any]) -> None:
    torch.manual_seed(1)
    shape = {"vocab_size": V, "n_positions": 50, "n_layer": 1, "n_head": 2, "n_embd": 16}
    peer = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=None)).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    ids = torch.tensor(rows(1.0)[1])
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=1,
        do_sample=True,
        pad_token_id=0,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **{"top_k": 0} | chain,
    )
    found = next_token_probabilities(out.logits[0], params(**chain), ids.tolist())
    torch.testing.assert_close(found, out.scores[0].softmax(-1))


def test_each_row_is_penalised_for_its_own_text() -> None:
    logits, _ = rows(2.0)
    texts = [[1], [2, 2, 3], [60] * 50, [4, 5]]
    found = next_token_probabilities(logits, params(temperature=1.0, repetition_penalty=2.0), texts)
    penalty = RepetitionPenaltyLogitsProcessor(2.0)
    for row, text in enumerate(texts):
        expected = penalty(torch.tensor([text]), logits[row : row + 1]).softmax(-1)[0]
        torch.testing.assert_close(found[row], expected)


def extreme_logits() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    random = torch.randn(3, V, generator=generator)
    one = torch.full((3, V), -INFINITY)
    one[range(3), [0, 17, V - 1]] = torch.tensor([0.0, 1e4, -1e4])
    few = random.clone()
    few[:, 4:] = -INFINITY
    return {
        "up to 10,000": random.clamp(-1, 1) * 1e4,
        "10,000 or -10,000": random.sign() * 1e4,
        "near 0": random * 1e-30,
        "all alike": torch.zeros(3, V),
        "all -inf but one": one,
        "all -inf but four": few,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", extreme_logits())
@pytest.mark.parametrize(
    "temperature", [5e-324, 1e-300, 1e-45, 1e-40, 1e-38, 1e-20, 1e-9, 1e-6, 0.1, 1.0, 1e6]
)
@pytest.mark.parametrize("penalty", [1e-6, 1.0, 1e6])
def test_no_number_is_too_extreme(
    name: str, temperature: float, penalty: float, dtype: torch.dtype
) -> None:
    logits = extreme_logits()[name].to(dtype)
    texts = [[0, 1, 2], [17], [*range(V)]]
    for rest in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}, CHAINS[-2] | {"top_p": 1e-9}):
        chain = {**rest, "temperature": temperature, "repetition_penalty": penalty}
        probabilities = next_token_probabilities(logits, params(**chain), texts)
        assert probabilities.isfinite().all()
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
        generators = [torch.Generator().manual_seed(row) for row in range(3)]
        chosen = choose(logits, params(**chain), texts, generators)
        assert (probabilities[range(3), chosen] > 0).all()
        assert (logits[range(3), chosen] > -INFINITY).all()
        if temperature < GREEDY:
            greedy = params(repetition_penalty=penalty)
            assert torch.equal(chosen, choose(logits, greedy, texts, generators))


def test_the_limit_of_a_low_temperature_is_the_most_likely_token() -> None:
    logits, texts = rows(2.0)
    least = [
        next_token_probabilities(logits, params(temperature=10.0**-n), texts).amax(-1).min().item()
        for n in range(12)
    ]
    assert least == sorted(least)
    assert least[-1] == 1


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("temperature", [-1e-300, 1.1e6, math.nan, INFINITY, "1", None, True, 10**400]),
        ("repetition_penalty", [0, -1.0, 1e-7, 1e7, math.nan]),
        ("min_p", [-0.1, 1.01, math.nan, None]),
        ("top_p", [0, 1.01]),
        ("top_k", [0, 1.5]),
        ("stop", ["a", [""], [1], None, ["\ud800"]]),
        ("strict", [1, "yes"]),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(UserError, match=rf"^options\.{key}\b"):
            parse(SamplingParams, {"max_new_tokens": 1, key: value}, "options")


def test_logits_that_are_not_finite_are_an_error() -> None:
    for value in (math.nan, INFINITY):
        logits, texts = rows(1.0)
        logits[2, 5] = value
        generators = [torch.Generator()] * 4
        with pytest.raises(UserError, match="not finite numbers"):
            choose(logits, params(temperature=1.0), texts, generators)
