"""Everything that a GPU should do, checked and timed in one run of a few minutes.

``make gpu``, or ``python -m benchmarks.gpu`` wherever there are torch (2.11 or newer), numpy,
click, psutil, pydantic, safetensors, tiktoken and tqdm. Hugging Face's GPT-2 is a peer
where transformers and accelerate are installed. Checked against the CPU: logits, loss, gradients,
greedy tokens; and that a killed training ends where an undisturbed one does. Timed, at 124M:
training steps, finetuning of texts of unequal length, generation.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import stages  # noqa: F401  puts src/ on the path
from benchmarks import generation, training_step
from benchmarks.finetuning import padded
from benchmarks.measure import Row, record, take_turns
from benchmarks.peers import GPT, hugging_face_is_here, training
from gpt2.core.device import DeviceParams, Runtime, choose_runtime, dtype_name
from gpt2.data.batch import Batch
from gpt2.data.instructions import Example, collate
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.tracking.tracker import NullTracker
from gpt2.training.checkpoint import RunDirectory
from gpt2.training.execution import choose_loss
from gpt2.training.flops import timed
from gpt2.training.loss import loss_sum
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import fit, train_step

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.03}
"""Of logits, loss and gradients against the CPU's in float32: the difference's norm over theirs."""
STEPS, CHECKPOINT, KILLED_AT = 30, 5, 13
"""Of the training that is killed: all, between checkpoints, and where."""
DRIFT = 1e-3
"""How far the weights of a resumed training may be off on a GPU, where sums may change order; on a
CPU not at all."""
PARTS = ("parity", "resume", "training", "finetuning", "generation")


class Check(NamedTuple):
    """A sentence, and whether it is as it should be."""

    good: bool
    sentence: str


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="A tiny model, to see that all of it runs.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this; again.")
@click.option("--train-in", type=click.Path(path_type=Path), hidden=True)
@click.option("--wait-at", type=int, hidden=True)
def main(
    device: str, quick: bool, parts: Sequence[str], train_in: Path | None, wait_at: int | None
) -> None:
    """Check and time everything on this GPU, and record it as ``gpu``."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no NVIDIA GPU here. To see that all runs: --device cpu --quick")
    runtime = choose_runtime(DeviceParams(device=device))  # type: ignore[arg-type]  # click checked
    if train_in:
        train(train_in, runtime, wait_at)
        return
    started, checks, rows = time.perf_counter(), list[Check](), list[Row]()
    if not hugging_face_is_here():
        print("Hugging Face is skipped: transformers or accelerate is not installed")
    config, rounds = (generation.TINY, 1) if quick else (generation.GPT2_124M, 5)
    for part in parts or PARTS:
        print(f"\n== {part}, after {time.perf_counter() - started:.0f} s", flush=True)
        if part == "parity":
            checks += parity(config, runtime)
        elif part == "resume":
            checks += [resume(runtime.device)]
        elif part == "training":
            count = len(training_step.shapes(device, quick))
            rows += [training_step.measure(i, device, rounds, quick) for i in range(count)]
        elif part == "finetuning":
            rows += [finetuning(config, runtime, 8 if quick else 32, rounds)]
        else:
            new, batches = (4, (1, 3)) if quick else (128, (1, 64, 512))
            checks += [same_tokens(config, runtime, new)]
            rows += [writing(config, runtime, B, new, min(rounds, 3)) for B in batches]
    for check in checks:
        print(check.sentence if check.good else f"FAILED: {check.sentence}")
    print(f"\n{time.perf_counter() - started:.0f} s in all", flush=True)
    if rows:
        rows[0] = replace(rows[0], checks=[*rows[0].checks, *(check.sentence for check in checks)])
    bad = [check.sentence for check in checks if not check.good]
    record("gpu", rows, device, quick=quick or bool(parts or bad))
    if bad:
        raise SystemExit(f"error: {len(bad)} check(s) failed, nothing is recorded")


def parity(config: GPT2Config, runtime: Runtime) -> list[Check]:
    """Logits, loss and gradients there against those of the CPU."""
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.manual_seed(0)
    model = GPT2(config)
    ids = torch.randint(config.vocab_size, (2, 257))
    texts = [Example(ids[0, :n].tolist(), 1) for n in (200, 4, 65, 130, 2, 101)]
    batches = {
        "rows of 256": Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()),
        "packed sequences": collate(texts, loss_on="all"),
    }
    checks = []
    for name, batch in batches.items():
        expected = computed(model, batch, generation.FLOAT32)
        for dtype in dict.fromkeys([torch.float32, runtime.dtype]):
            found = computed(model, batch, Runtime(runtime.device, dtype))
            off = {key: float((found[key] - e).norm() / e.norm()) for key, e in expected.items()}
            parts = ", ".join(f"{key} {error:.1e}" for key, error in off.items())
            sentence = f"{name}, {dtype_name(dtype)}, off the CPU's float32 by: {parts}"
            checks.append(Check(max(off.values()) <= TOLERANCE[dtype], sentence))
    return checks


def computed(model: GPT2, batch: Batch, runtime: Runtime) -> dict[str, Tensor]:
    """Logits, mean loss and all gradients, in float32 on the CPU."""
    there, moved = deepcopy(model).to(runtime.device), batch.to(runtime.device)
    with runtime.autocast():
        loss = loss_sum(there, moved) / batch.targets.numel()
        with torch.no_grad():
            logits = there.logits(there.features(moved.inputs, lengths=moved.lengths))
    gradients = torch.autograd.grad(loss, [*there.parameters()])
    gradient = torch.cat([gradient.flatten() for gradient in gradients])
    found = {"logits": logits, "loss": loss.detach(), "gradients": gradient}
    return {key: tensor.float().cpu() for key, tensor in found.items()}


def resume(device: torch.device) -> Check:
    """Kill a training, go on from its checkpoint, and compare with one that nobody disturbed."""
    with TemporaryDirectory() as directory:
        whole, killed = Path(directory, "whole"), Path(directory, "killed")
        _train_in(whole, device)
        _train_in(killed, device, "--wait-at", str(KILLED_AT))
        checkpoint = max(path.name for path in killed.glob("*/step-*"))
        _train_in(killed, device)
        expected, found = (load_file(path / "weights.safetensors") for path in (whole, killed))
    off = max(float((found[name] - weight).abs().max()) for name, weight in expected.items())
    sentence = f"killed at step {KILLED_AT}, gone on from {checkpoint}: weights off by {off}"
    return Check(off <= (DRIFT if device.type == "cuda" else 0), sentence)


def _train_in(directory: Path, device: torch.device, *more: str) -> None:
    """`train` in a process of its own, which is killed when it waits for that."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", device.type]
    process = subprocess.Popen(
        [*command, "--train-in", str(directory), *more],
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # the same sums each time
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    waits = "waiting" in process.stdout.readline()
    if waits:
        process.kill()
    if process.wait() != (-signal.SIGKILL if waits else 0):
        raise SystemExit(f"error: a training ended with {process.returncode}")


def train(directory: Path, runtime: Runtime, wait_at: int | None) -> None:
    """Train a small model, with dropout; at step ``wait_at`` say so, and wait to be killed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    model = GPT2(generation.TINY.model_copy(update={"dropout": 0.1}))

    def batches(step: int) -> list[Batch]:
        if step == wait_at:
            print("waiting", flush=True)
            time.sleep(600)
        tokens = torch.randint(512, (8, 65), generator=torch.Generator().manual_seed(step))
        return [Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())]

    params = TrainParams(
        lr=1e-3,
        batch_size=8,
        device=runtime.device.type,  # type: ignore[arg-type]  # one of those that there are
        checkpoint_interval=CHECKPOINT,
    )
    run_directory = RunDirectory(directory, "gpu", {})
    fit(model, STEPS, batches, lambda: batches(-1), params, run_directory, NullTracker())
    save_file(model.cpu().state_dict(), directory / "weights.safetensors")


def finetuning(config: GPT2Config, runtime: Runtime, texts: int, rounds: int) -> Row:
    """Steps on texts with lengths like Alpaca's, other ones in each step: ours, and padded rows."""
    device, gpu = runtime.device, runtime.device.type == "cuda"
    figures = {}
    if gpu:
        step, long = stepping(config, runtime, compiled=False), examples(config, [1000] * 64)
        step(long)
        torch.cuda.reset_peak_memory_stats()
        figures["64 texts of 1,000 tokens, ms a step"] = 1e3 * min(
            timed(lambda: step(long), runtime) for _ in range(3)
        )
        figures["64 texts of 1,000 tokens, peak memory, MiB"] = (
            torch.cuda.max_memory_allocated() / 2**20
        )
        del step
        torch.cuda.empty_cache()
    draw = torch.Generator().manual_seed(0)
    spread = torch.empty(4, texts).log_normal_(4.6, 0.7, generator=draw)
    lengths = spread.long().clamp(8, config.context_length).tolist()
    turns = [examples(config, each) for each in lengths]
    model = GPT(
        config.vocab_size, config.context_length, config.n_layer, config.n_head, config.n_embd
    )
    padded_step = training(model.to(device), autocast=gpu, fused=gpu)
    eager = stepping(config, runtime, compiled=False)
    compiled = {"ours": stepping(config, runtime, compiled=True)} if gpu else {}
    steps: dict[str, Callable[[Sequence[Example]], object]] = {
        **compiled,
        "ours, eager": eager,
        "nanoGPT, padded": lambda each: padded_step(*padded(each).to(device)[:2]),
    }
    sides = {
        name: lambda step=step: timed(lambda: [step(each) for each in turns], runtime)
        for name, step in steps.items()
    }
    return Row(
        f"finetuning, {texts} texts of {min(map(min, lengths))} to {max(map(max, lengths))} tokens",
        sum(map(sum, lengths)),
        "tokens of texts",
        take_turns(sides, rounds),
        figures=figures,
    )


def stepping(
    config: GPT2Config, runtime: Runtime, compiled: bool
) -> Callable[[Sequence[Example]], object]:
    """The trainer's step, of a model of its own."""
    params = TrainParams(lr=5e-5, batch_size=1, compile=compiled)
    model = GPT2(config).to(runtime.device).train()
    state = TrainState.create(model, params, runtime)
    loss_of = choose_loss(model, params, runtime, steps=10**6)

    def step(texts: Sequence[Example]) -> None:
        batch = collate(texts, loss_on="all").to(runtime.device)
        train_step(state, [batch], loss_of, runtime, params.grad_clip)

    return step


def examples(config: GPT2Config, lengths: Sequence[int]) -> list[Example]:
    """Random texts whose inputs have these lengths."""
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(config.vocab_size, (n + 1,), generator=draw) for n in lengths]
    return [Example(ids.tolist(), 1) for ids in texts]


def same_tokens(config: GPT2Config, runtime: Runtime, new: int) -> Check:
    """The greedy tokens there, by recorded steps, and those of the CPU, both in float32."""
    torch.manual_seed(1)
    model, texts = GPT2(config), generation.prompts(generation.FEW, config)
    sampling = SamplingParams(max_new_tokens=new)
    expected = generate(model, texts, sampling, generation.NEVER, generation.FLOAT32)
    there = Runtime(runtime.device, torch.float32)
    found = generate(model.to(there.device), texts, sampling, generation.NEVER, there)
    sentence = f"in float32 {new} greedy tokens of {len(texts)} prompts are those of the CPU"
    return Check(found == expected, sentence)


def writing(config: GPT2Config, runtime: Runtime, B: int, new: int, rounds: int) -> Row:
    """``new`` greedy tokens after each of B prompts, from the model to the tokens."""
    torch.manual_seed(1)
    model, texts = GPT2(config).eval(), generation.prompts(B, config)
    sampling = SamplingParams(max_new_tokens=new)
    sides = {
        "ours": lambda: generate(model, texts, sampling, generation.NEVER, runtime, batch_size=B)
    }
    name = f"Hugging Face, {dtype_name(runtime.dtype)}"
    if hugging_face_is_here():
        peer = generation.peer_of(model, runtime)
        sides[name] = lambda: generation.peers(peer, texts, new)
    model.to(runtime.device)
    timings = take_turns(sides, rounds)
    work = f"{B} prompt{'s side by side' if B > 1 else ''}, {new} new tokens each"
    seconds = median(timings["ours"].clock)
    return Row(
        work, B * new, "tokens", timings, figures={"ms a token of each text": seconds / new * 1e3}
    )


if __name__ == "__main__":
    main()
