"""What tracking costs: the same training with and without it, each in a process of its own.

``python -m benchmarks.tracking_overhead`` prints seconds, MLflow's import and a fresh store
included. Processor time counts what the tracker's thread does beside the training; on a machine
that is busy otherwise it says more than the clock. ``--steps 0``: a stage that does nothing else.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click

import stages  # noqa: F401  puts src/ on the path


class Seconds(NamedTuple):
    """What a run took."""

    clock: float
    processor: float


@click.command()
@click.option("--steps", default=1000, show_default=True)
@click.option("--width", default=192, show_default=True, help="Of the model; a step's cost.")
@click.option("--repeats", default=1, show_default=True)
@click.option("--inside", type=click.Path(path_type=Path), hidden=True)
def main(steps: int, width: int, repeats: int, inside: Path | None) -> None:
    """Print the seconds of a training run without tracking, with it, and the difference."""
    if inside:
        print(*train(inside, steps, width))
        return
    found: dict[str, list[Seconds]] = {"off": [], "on": []}
    for _ in range(repeats):
        for tracking, runs in found.items():
            with tempfile.TemporaryDirectory() as directory:
                runs.append(measure(tracking, Path(directory), steps, width))
    for index, kind in enumerate(Seconds._fields):
        without, tracked = (min(run[index] for run in runs) for runs in found.values())
        share = f", {100 * (tracked / without - 1):+.1f} %" if steps else ""
        print(
            f"{kind:<10}{without:8.2f} s without tracking, {tracked:8.2f} s with it, "
            f"{tracked - without:+.2f} s{share}"
        )


def measure(tracking: str, directory: Path, steps: int, width: int) -> Seconds:
    """The seconds of one run; ``tracking`` is ``on`` or ``off``."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "" if tracking == "on" else "off"}
    command = [sys.executable, "-m", "benchmarks.tracking_overhead", "--inside", str(directory)]
    command += ["--steps", str(steps), "--width", str(width)]
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return Seconds(*map(float, process.stdout.splitlines()[-1].split()))


def train(root: Path, steps: int, width: int) -> Seconds:
    """Train a small model on random tokens, as a stage does."""
    import torch

    from gpt2.batch import Batch
    from gpt2.checkpoint import RunDirectory
    from gpt2.model import GPT2, GPT2Config
    from gpt2.tracking import track
    from gpt2.trainer import TrainParams, fit

    T, B, V = 128, 8, 1024
    model = GPT2(GPT2Config(vocab_size=V, context_length=T, n_layer=4, n_head=4, n_embd=width))
    tokens = torch.randint(V, (B, T + 1))
    batches = [Batch(tokens[:, :-1], tokens[:, 1:])]
    params = TrainParams(lr=1e-3, batch_size=B, eval_interval=250, checkpoint_interval=250)
    run_directory = RunDirectory(root, "benchmark", {})
    started, processor = time.perf_counter(), time.process_time()
    with track("benchmark", root, {"benchmark": params.model_dump()}, ["benchmark"]) as tracker:
        if steps:
            fit(
                model,
                steps,
                lambda step: batches,
                lambda: batches,
                params,
                run_directory,
                tracker,
                on_evaluation=lambda step: tracker.text("sample", f"samples/{step}.txt"),
            )
        tracker.metrics({"val_loss": 1.0})
    return Seconds(time.perf_counter() - started, time.process_time() - processor)


if __name__ == "__main__":
    main()
