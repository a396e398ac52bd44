"""Random training windows: ours from verified Arrow shards, nanoGPT's from a file of uint16.

Both read the same random tokens. nanoGPT's recipe, written anew from what its ``get_batch`` does:
the memmap opened for each batch, offsets drawn by ``torch.randint``, each row ``astype(int64)``,
``torch.from_numpy`` and ``torch.stack``, once for inputs and once for targets. Ours does more: each
window once an epoch, in an order that a seed decides.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, record, take_turns
from gpt2.core.device import DeviceParams, choose_runtime
from gpt2.core.files import new_directory
from gpt2.data.shards import Tokens, write_shards
from gpt2.data.train_bpe import train_bpe
from gpt2.data.windows import TrainingWindows, window_starts
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.loss import linear_cross_entropy

OURS, NANOGPT, STEP = "ours", "nanoGPT's memmap", "a training step"
BATCHES = 200
B = 8


@click.command()
@click.option("--tokens", default=50_000_000, show_default=True)
@click.option("--quick", is_flag=True, help="A million tokens.")
def main(tokens: int, quick: bool) -> None:
    """Compare tokens/s, and with the time of a small model's training step."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write(place, 1_000_000 if quick else tokens)
        record("windows", [compare(place, length) for length in (256, 1024)], quick=quick)


def write(place: Path, tokens: int) -> None:
    """The same tokens as shards and as one file."""
    tokenizer = train_bpe(["a text"], 300)
    row = np.random.default_rng(0).integers(256, size=tokens, dtype=np.uint16)
    row[0] = tokenizer.end_of_text
    row.tofile(place / "train.bin")
    facts: dict[str, object] = {}
    with new_directory(place / "tokens", facts) as new:
        facts |= write_shards(
            new, [("train", row), ("validation", row[:1])], tokenizer, shard_tokens=4194304
        )


def compare(place: Path, length: int) -> Row:
    """Both sides at a context of ``length`` tokens, ``B`` windows a batch."""
    tokens = Tokens.open(place / "tokens", "train")
    windows = TrainingWindows(tokens, length, B, seed=1)
    flat = np.memmap(place / "train.bin", dtype=np.uint16, mode="r")
    starts = window_starts(len(tokens), length, seed=1, epoch=0)[:B]
    for index, targets in enumerate(windows(0).targets):
        expected = flat[starts[index] + 1 : starts[index] + 1 + length]
        if not np.array_equal(targets.numpy(), expected):
            raise RuntimeError(f"window {index} differs from the same tokens of the memmap")

    def nanogpt() -> None:
        for _ in range(BATCHES):
            data = np.memmap(place / "train.bin", dtype=np.uint16, mode="r")
            starts = torch.randint(len(data) - length, (B,))
            for shift in (0, 1):
                torch.stack(
                    [
                        torch.from_numpy(data[i + shift : i + shift + length].astype(np.int64))
                        for i in starts
                    ]
                )

    def ours() -> None:
        for step in range(BATCHES):
            windows(step)

    timings = take_turns({OURS: ours, NANOGPT: nanogpt, STEP: training_step(windows)}, rounds=3)
    step = sorted(timings.pop(STEP).clock)[1]
    batch = sorted(timings[OURS].clock)[1] / BATCHES
    return Row(
        work=f"training windows, batch {B}, T={length}",
        amount=BATCHES * B * length,
        unit="tokens",
        sides=timings,
        goals={NANOGPT: 1.0},
        checks=["a batch of ours has the memmap's tokens at the same places"],
        figures={
            "ours, microseconds per batch": 1e6 * batch,
            "starter model's training step, ms": 1e3 * step,
            "share of that step, %": 100 * batch / step,
        },
    )


def training_step(windows: TrainingWindows) -> Callable[[], None]:
    """Forward, backward and update of a model of the starter profile's shape."""
    config = GPT2Config(vocab_size=4096, context_length=1024, n_layer=4, n_head=4, n_embd=256)
    model = GPT2(config)
    optimizer = torch.optim.AdamW(model.parameters())
    runtime = choose_runtime(DeviceParams(device="cpu"))

    def step() -> None:
        inputs, targets, _ = windows(0)
        with runtime.autocast():
            features = model.features(inputs).flatten(0, 1)
            loss = linear_cross_entropy(features, model.wte.weight, targets.flatten())
        torch.autograd.backward(loss / targets.numel())
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
