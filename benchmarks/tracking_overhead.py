"""What tracking costs: the same training with and without it, each in a process of its own.

The training has one thread, and the tracker has others, so its processor time is all that this one
did not take: MLflow's import, what is sent, and the end of the process. The first run of a
repository, which makes the store, is timed by itself.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, Sample, Timing, child, record
from benchmarks.startup import whole_process

GOAL = 2.0
"""Most percent of the run's processor time."""


class Training(NamedTuple):
    """A process that trains."""

    whole: Sample
    """From its start to its end."""
    beside: float
    """Processor seconds, but for those of the thread that trains."""
    loss: float


@click.command()
@click.option("--steps", default=1000, show_default=True)
@click.option("--width", default=192, show_default=True, help="Of the model; a step's cost.")
@click.option("--quick", is_flag=True, help="50 steps.")
@click.option("--inside", type=click.Path(path_type=Path), hidden=True)
def main(steps: int, width: int, quick: bool, inside: Path | None) -> None:
    """Time a training run with tracking and without, and the first run of a repository."""
    if inside:
        print(json.dumps(train(inside, steps, width)))
        return
    steps = 50 if quick else steps
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        first, none = (run(tracked, root, 1, width) for tracked in (True, False))
        tracked, bare = (run(tracked, root, steps, width) for tracked in (True, False))
    if tracked.loss != bare.loss:
        raise SystemExit(f"other losses with tracking, {tracked.loss}, than without, {bare.loss}")
    more = tracked.beside - bare.beside
    percent = 100 * more / bare.whole.processor
    figures = {
        "processor seconds of tracking": more,
        f"percent of the processor time, goal at most {GOAL}": percent,
        "processor seconds of tracking in the first run": first.beside - none.beside,
    }
    timings = {"tracked": Timing(), "not tracked": Timing()}
    for timing, training in zip(timings.values(), (tracked, bare), strict=True):
        timing.add(*training.whole)
    check = f"the same loss after {steps} steps"
    row = Row(f"training {steps} steps", steps, "steps", timings, checks=[check], figures=figures)
    record("tracking_overhead", [row], quick=quick)


def run(tracked: bool, root: Path, steps: int, width: int) -> Training:
    """Train in a process of its own, with the store below ``root``."""
    arguments = ["--inside", str(root), "--steps", str(steps), "--width", str(width)]
    environment = {"MLFLOW_TRACKING_URI": "" if tracked else "off", "OMP_NUM_THREADS": "1"}
    printed: list[float] = []
    module = "benchmarks.tracking_overhead"
    whole = whole_process(
        lambda: printed.extend(child(module, *arguments, environment=environment))
    )
    thread, loss = printed
    return Training(whole, whole.processor - thread, loss)


def train(root: Path, steps: int, width: int) -> tuple[float, float]:
    """Train a small model on random tokens, as a stage does; give this thread's processor seconds
    since the start of the process, and the loss."""
    import torch

    from gpt2.data.batch import Batch
    from gpt2.model.config import GPT2Config
    from gpt2.model.gpt2 import GPT2
    from gpt2.tracking.tracker import track
    from gpt2.training.checkpoint import RunDirectory
    from gpt2.training.params import TrainParams
    from gpt2.training.trainer import fit

    T, B, V = 128, 8, 1024
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=V, context_length=T, n_layer=4, n_head=4, n_embd=width))
    tokens = torch.randint(V, (B, T + 1))
    batches = [Batch(tokens[:, :-1], tokens[:, 1:])]
    params = TrainParams(lr=1e-3, batch_size=B, eval_interval=250, checkpoint_interval=250)
    run_directory = RunDirectory(root, "benchmark", {})
    with track("benchmark", root, {"benchmark": params.model_dump()}, ["benchmark"]) as tracker:
        history = fit(
            model,
            steps,
            lambda step: batches,
            lambda: batches,
            params,
            run_directory,
            tracker,
            on_evaluation=lambda step: tracker.text("sample", f"samples/{step}.txt"),
        )
        loss = history.evaluations[-1]["val_loss"]
        tracker.metrics({"val_loss": loss})
    run_directory.clear()
    return time.thread_time(), loss


if __name__ == "__main__":
    main()
