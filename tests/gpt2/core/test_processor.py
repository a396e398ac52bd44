import multiprocessing
import time

import psutil
import pytest
import torch

from gpt2.core import processor


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_only_other_processes_count() -> None:
    since = processor.core_seconds()
    spin(0.5)
    alone = processor.busy_elsewhere(since)
    other = multiprocessing.get_context("spawn").Process(target=spin, args=[20.0])
    other.start()
    try:
        while psutil.Process(other.pid).cpu_times().user < 1:
            time.sleep(0.05)
        since = processor.core_seconds()
        time.sleep(1)
        together = processor.busy_elsewhere(since)
    finally:
        other.kill()
        other.join()
    assert 0 <= alone <= processor.cores()
    # If other processes of this machine are also busy, this one gets less than a core.
    assert 0.3 < together <= processor.cores() + 0.1


def test_the_instruction_sets_are_those_of_torch() -> None:
    found = processor.instruction_sets()
    flags = torch.cpu.get_capabilities()
    assert ("AVX2" in found) == bool(flags.get("avx2"))
    assert ("AVX512-BF16" in found) == bool(flags.get("avx512_bf16"))
    assert 1 <= processor.usable_cores() <= processor.cores()
    assert processor.load() >= 0


def test_the_capability_limit_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert processor.capability_limit() is None
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert processor.capability_limit() == torch.backends.cpu.get_cpu_capability()


def test_the_parsing_rate_is_measured_quickly() -> None:
    started = time.perf_counter()
    assert 1e4 < processor.parsing_rate() < 1e9
    assert time.perf_counter() - started < 3
