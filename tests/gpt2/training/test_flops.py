"""The speed of a machine and the time of a step; `test_estimate.py` checks the counted FLOPs."""

import time

import pytest
import torch

from gpt2.core.device import Runtime
from gpt2.model.config import GPT2Config
from gpt2.training import flops
from gpt2.training.flops import Speed, measured_rate, measured_speed, steps_seconds

FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
WIDE = GPT2Config(context_length=64, n_layer=2, n_head=2, n_embd=768, vocab_size=320)


def test_measuring_is_short_and_leaves_random_states_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    started = time.perf_counter()
    speed = measured_speed(FLOAT32, 256)
    assert time.perf_counter() - started < 2  # 0.2 s where nothing else is busy
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e7 < speed.products < 1e15
    assert 1e-13 < speed.sum < 1e-6
    assert 1e-7 < speed.call < 1e-1


def test_slow_products_are_measured_with_fewer_rows() -> None:
    huge = 2**14  # a product of all rows would take seconds, one of 16 rows is quick
    rate = measured_rate(FLOAT32, 64, rows=huge, seconds=1e-4)
    assert rate > 0


def test_a_step_takes_the_time_of_products_update_and_overhead() -> None:
    speed = Speed(products=1e9, sum=1e-9, call=1e-5)

    def seconds(**changes: float) -> float:
        work = {"flops": 1e9, "tokens": 1000, "counted": 500, "steps": 1, "passes": 1, **changes}
        return steps_seconds(WIDE, speed, muon=0, **work)  # type: ignore[arg-type]  # numbers

    beside = 1000 * flops.SUMS_OF_CHANNEL * 2 * 768 + 500 * flops.SUMS_OF_ENTRY * 320
    calls = (flops.CALLS + 2 * flops.CALLS_OF_LAYER) * 1e-5
    assert seconds() == pytest.approx(1 + beside * 1e-9 + calls)
    thrice = seconds(flops=3e9, tokens=3000, counted=1500, steps=3, passes=3)
    assert thrice == pytest.approx(3 * seconds())
    assert seconds(passes=2) - seconds() == pytest.approx(2 * flops.CALLS_OF_LAYER * 1e-5)
    none = {"flops": 0.0, "tokens": 0.0, "counted": 0.0, "passes": 0}
    update = steps_seconds(WIDE, speed, **none, steps=1, muon=1e8)  # type: ignore[arg-type]
    assert update - seconds(**none) == pytest.approx(
        1e8 / 1e9 / flops.MUON_EFFICIENCY + 8 * flops.CALLS_OF_MUON * 1e-5
    )
