"""How long Muon takes to the loss that AdamW ends with, on the starter's model and tokens.

Needs the starter's shards: ``dvc repro tokenize``. Both train for the same tokens with a schedule
of that length, one seed; Muon as the starter does, AdamW with each of `RATES`, of which the best
counts.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, Timing, record
from gpt2.core.yaml_files import load
from gpt2.data.shards import Tokens
from gpt2.data.windows import TrainingWindows, evaluation_batches
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.tracking.tracker import track
from gpt2.training.checkpoint import RunDirectory
from gpt2.training.history import History
from gpt2.training.pretraining import PretrainParams
from gpt2.training.trainer import fit

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
"""AdamW's learning rates."""


@click.command()
@click.option("--tokens", default=1_000_000, show_default=True, help="To train on, each.")
@click.option(
    "--tokens-dir", type=click.Path(path_type=Path), default="data/tokens", show_default=True
)
@click.option("--quick", is_flag=True, help="A few steps, to see that all of it runs.")
def main(tokens: int, tokens_dir: Path, quick: bool) -> None:
    """Train with AdamW and with Muon on this machine."""
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    muon = load(PretrainParams, Path("params.yaml"), "pretrain")
    steps = 4 if quick else tokens // (muon.batch_size * muon.model.context_length)
    schedule = {"steps": steps, "eval_interval": max(1, steps // 25), "log_interval": 10}
    muon = muon.model_copy(update=schedule | {"optimizer": "muon"})
    by_muon = train(muon, tokens_dir)
    tried = {
        lr: train(muon.model_copy(update={"optimizer": "adamw", "lr": lr}), tokens_dir)
        for lr in RATES[: 1 if quick else None]
    }
    ends = {lr: history.evaluations[-1]["val_loss"] for lr, history in tried.items()}
    best = min(ends, key=lambda lr: ends[lr])
    by_adamw, goal = tried[best], ends[best]
    reached = [point["step"] for point in by_muon.evaluations if point["val_loss"] <= goal]
    if not reached and not quick:
        raise SystemExit(f"Muon does not reach AdamW's loss of {goal:.4f} in {steps} steps")
    part = (reached[0] if reached else steps) / steps
    seconds = {"Muon": by_muon.seconds * part, "AdamW": by_adamw.seconds}
    row = Row(
        work=f"training to the loss that AdamW has after {steps} steps",
        amount=1,
        unit="runs",
        sides={name: Timing([value], []) for name, value in seconds.items()},
        goals={"AdamW": 1.43},
        figures={
            **{f"validation loss of AdamW at the end, lr {lr:g}": ends[lr] for lr in ends},
            "validation loss of Muon at the end": by_muon.evaluations[-1]["val_loss"],
            "part of the tokens that Muon needed": part,
            "step of AdamW, ms": 1000 * by_adamw.seconds / steps,
            "step of Muon, ms": 1000 * by_muon.seconds / steps,
        },
    )
    record("optimizer", [row], quick=quick)


def train(params: PretrainParams, tokens_dir: Path) -> History:
    """What a run saw."""
    train, validation = (Tokens.open(tokens_dir, split) for split in ("train", "validation"))
    T, B = params.model.context_length, params.batch_size
    torch.manual_seed(params.seed)
    model = GPT2(GPT2Config(vocab_size=train.vocab_size, **params.model.model_dump()))
    with (
        TemporaryDirectory() as directory,
        track("benchmark", Path(directory), {"benchmark": {}}, []) as tracker,
    ):
        windows = TrainingWindows(train, T, B, params.seed)
        return fit(
            model,
            params.steps,
            lambda step: [windows(step)],
            lambda: evaluation_batches(validation, T, B),
            params,
            RunDirectory(Path(directory), "benchmark", {}),
            tracker,
        )


if __name__ == "__main__":
    main()
