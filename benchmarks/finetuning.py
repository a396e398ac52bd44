"""An epoch of finetuning a 124M model on instructions: ours, and the tutorial's loop.

The tutorial's: float32, batches of 8 in random order, each padded to its longest record and all of
it computed, logits whole. Ours: the trainer's step on the same records in the same order, at the
same learning rate. Records are documentation of installed packages under Alpaca's prompt, cut to
lengths like Alpaca's (lognormal, median 45 words). Both begin with the same random weights; no
pretrained ones come with a package.
"""

import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, record, take_turns
from benchmarks.peers import GPT
from benchmarks.side import Side, serve
from gpt2.core.device import DeviceParams, choose_runtime
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.data.instructions import Example, InstructionBatches, collate, evaluation_batches, prompt
from gpt2.data.sources.package_docs import documented_objects
from gpt2.data.train_bpe import train_bpe
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.loss import evaluate, loss_sum
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import train_step

LR, BATCH, CONTEXT, SEED = 5e-5, 8, 1024, 123
SIDES = ("ours", "tutorial")


@click.command()
@click.option("--records", default=64, show_default=True)
@click.option(
    "--rounds", default=2, show_default=True, help="Epochs that count; one more does not."
)
@click.option("--quick", is_flag=True, help="A tiny model, to see that all of it runs.")
@click.option("--side", type=click.Choice(SIDES), hidden=True)
@click.option("--data", type=click.Path(path_type=Path), hidden=True)
def main(records: int, rounds: int, quick: bool, side: str | None, data: Path | None) -> None:
    """Time epochs of finetuning on this machine."""
    config = GPT2Config(
        vocab_size=50257,
        context_length=CONTEXT,
        n_layer=1 if quick else 12,
        n_head=12,
        n_embd=48 if quick else 768,
    )
    if side and data:
        held = torch.load(data, weights_only=True)
        train, validation = (
            [Example(ids, n_prompt) for ids, n_prompt in held[split]]
            for split in ("train", "validation")
        )
        SIDE[side](config, held["weights"], train, validation)
        return
    examples = make_examples(records + records // 2)
    train, validation = examples[:records], examples[records:]
    torch.manual_seed(0)
    with TemporaryDirectory() as directory, ExitStack() as stack:
        path = Path(directory, "data.pt")
        held = {"weights": GPT2(config).state_dict()}
        for split, part in (("train", train), ("validation", validation)):
            held[split] = [(example.ids, example.n_prompt) for example in part]
        torch.save(held, path)
        arguments = ["--data", str(path), *(["--quick"] if quick else [])]
        sides = {
            name: stack.enter_context(
                Side("benchmarks.finetuning", *arguments, "--side", name, ours=name == "ours")
            )
            for name in SIDES
        }
        timings = take_turns(sides, rounds)
        losses = {name: [found["val_loss"] for found in s.results] for name, s in sides.items()}
    if losses["ours"][-1] > 1.005 * losses["tutorial"][-1]:
        raise SystemExit(f"ours does not reach the tutorial's validation loss: {losses}")
    row = Row(
        work=f"finetuning epoch, {'tiny model' if quick else '124M'}, {records} records",
        amount=sum(len(example.ids) - 1 for example in train),
        unit="tokens of records",
        sides=timings,
        goals={"tutorial": 3.5},
        checks=[
            f"validation loss after {rounds + 1} epochs: "
            f"ours {losses['ours'][-1]:.3f}, tutorial {losses['tutorial'][-1]:.3f}"
        ],
    )
    record("finetuning", [row], quick=quick)


def make_examples(count: int) -> list[Example]:
    """Documentation as answers to instructions, encoded."""
    objects = documented_objects(["numpy", "pandas"], "packages")
    tokenizer = train_bpe((item.text for item in objects), 8192)
    draw = random.Random(0)
    examples = []
    for item in draw.sample(objects, count):
        words = item.text.split()[: max(3, int(draw.lognormvariate(math.log(45), 0.9)))]
        ids = tokenizer.encode(prompt("Describe this object.", item.name))
        answer = [*tokenizer.encode(" ".join(words)), tokenizer.end_of_text]
        examples.append(Example([*ids, *answer][: CONTEXT + 1], len(ids)))
    return examples


def ours(
    config: GPT2Config,
    weights: dict[str, Tensor],
    train: Sequence[Example],
    validation: Sequence[Example],
) -> None:
    """Packed records, bfloat16 where it is native, the chunked loss."""
    params = TrainParams(lr=LR, batch_size=BATCH, grad_clip=None, beta2=0.999)
    runtime = choose_runtime(DeviceParams(device="cpu"))
    model = GPT2(config)
    model.load_state_dict(weights)
    state = TrainState.create(model, params, runtime)
    collator = partial(collate, loss_on="all")
    batches = InstructionBatches(train, BATCH, None, SEED, collator)
    steps = iter(range(10**6))

    def epoch() -> None:
        model.train()
        for _ in range(batches.steps_per_epoch):
            train_step(state, batches(next(steps)), loss_sum, runtime, params.grad_clip)

    def result() -> dict[str, float]:
        held_out = evaluation_batches(validation, BATCH, collator)
        return {"val_loss": evaluate(model, held_out, runtime).loss}

    serve(epoch, result)


def tutorial(
    config: GPT2Config,
    weights: dict[str, Tensor],
    train: Sequence[Example],
    validation: Sequence[Example],
) -> None:
    """Records side by side, padded, float32."""
    model = GPT(
        config.vocab_size, config.context_length, config.n_layer, config.n_head, config.n_embd
    )
    model.take(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1)
    batches = InstructionBatches(train, BATCH, None, SEED, padded)
    steps = iter(range(10**6))

    def loss_of(batch: Batch) -> Tensor:
        logits = model(batch.inputs)
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")

    def epoch() -> None:
        for _ in range(batches.steps_per_epoch):
            (batch,) = batches(next(steps))
            optimizer.zero_grad()
            loss = loss_of(batch) / (batch.targets != IGNORE_INDEX).sum()
            torch.autograd.backward(loss)
            optimizer.step()

    @torch.no_grad()
    def result() -> dict[str, float]:
        held_out = evaluation_batches(validation, BATCH, padded)
        total = sum(float(loss_of(batch)) for batch in held_out)
        return {"val_loss": total / sum(len(example.ids) - 1 for example in validation)}

    serve(epoch, result)


def padded(examples: Sequence[Example]) -> Batch:
    """A row for each record, all as long as the longest."""
    ids = [torch.tensor(example.ids) for example in examples]
    inputs = pad_sequence([i[:-1] for i in ids], batch_first=True)
    targets = pad_sequence([i[1:] for i in ids], batch_first=True, padding_value=IGNORE_INDEX)
    return Batch(inputs, targets)


SIDE = {"ours": ours, "tutorial": tutorial}


if __name__ == "__main__":
    main()
