"""A training step: ours, nanoGPT's recipe and Hugging Face's `Trainer`, each as it is shipped.

All three begin with the same weights and see the same batch, forward, backward and update. On a
GPU, where `benchmarks.gpu` asks for it, all compute in bfloat16, and are compiled.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, kind, record, take_turns
from benchmarks.peers import GPT, hugging_face_is_here, training
from benchmarks.side import Side, Turns, serve
from gpt2.core.device import DeviceParams, choose_runtime, dtype_name, peak_memory_mib
from gpt2.data.batch import Batch
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training import flops
from gpt2.training.execution import choose_loss
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import train_step


@dataclass(frozen=True)
class Shape:
    """A model, its batch, and how many times faster than each peer ours is meant to be, by kind
    of processor, or on any GPU."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    V: int
    T: int
    B: int
    goals: Mapping[str, Mapping[str, float]]
    steps: int = 1
    """In a turn: a step that is over at once would mostly meet what the other sides left in the
    caches, while training goes on and on."""

    @property
    def config(self) -> GPT2Config:
        return GPT2Config(
            vocab_size=self.V,
            context_length=self.T,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
        )

    def batch(self, device: str) -> tuple[Tensor, Tensor]:
        """Random tokens; targets are the inputs one further."""
        tokens = torch.randint(self.V, (self.B, self.T + 1), generator=torch.manual_seed(1))
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return inputs.to(device), targets.to(device)


def goals(
    bfloat16: Mapping[str, float], float32: Mapping[str, float]
) -> Mapping[str, Mapping[str, float]]:
    """By kind of processor: where both sides compute in float32, less is to be gained."""
    return {"avx512-bf16": bfloat16, "avx512": float32, "avx2": float32}


LARGE = goals({"nanoGPT": 2.7, "Trainer": 3}, {"nanoGPT": 1.7, "Trainer": 1.75})
NARROW = goals({"nanoGPT": 3.2}, {"nanoGPT": 1.7, "Trainer": 1.75})
SMALL = goals({"nanoGPT": 2.5}, {"nanoGPT": 1.35, "Trainer": 1.75})
GPU = {"cuda": {"nanoGPT": 1.15, "Trainer": 1.15}}
SHAPES = {
    "cpu": (
        Shape("124M", 12, 12, 768, 50257, 256, 8, LARGE),
        Shape("124M", 12, 12, 768, 50257, 1024, 2, LARGE),
        Shape("6 layers of 256", 6, 4, 256, 50257, 256, 8, NARROW, steps=5),
        Shape("6 layers of 256", 6, 4, 256, 8192, 256, 8, SMALL, steps=5),
    ),
    "cuda": (Shape("124M", 12, 12, 768, 50257, 1024, 16, GPU, steps=20),),
}
QUICK = Shape("2 layers of 32", 2, 2, 32, 512, 64, 2, {}, steps=2)


@click.command()
@click.option("--device", default="cpu", hidden=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="A tiny model, to see that all of it runs.")
@click.option("--side", hidden=True)
@click.option("--shape", default=-1, hidden=True)
@click.option("--weights", type=click.Path(path_type=Path), hidden=True)
def main(
    device: str, rounds: int, quick: bool, side: str | None, shape: int, weights: Path | None
) -> None:
    """Time training steps of several models on this machine."""
    if side and weights:
        state = torch.load(weights, weights_only=True)
        SIDE[side](shapes(device, quick)[shape], device, state)
        return
    rows = [measure(i, device, rounds, quick) for i in range(len(shapes(device, quick)))]
    record("training_step", rows, device, quick)


def shapes(device: str, quick: bool) -> Sequence[Shape]:
    """What is measured."""
    return (QUICK,) if quick else SHAPES[device]


@contextmanager
def started(
    index: int, device: str, quick: bool, names: Sequence[str] = ()
) -> Iterator[dict[str, Side]]:
    """The sides of a shape, all or ``names``, each in a process of its own; the same weights."""
    torch.manual_seed(0)
    with TemporaryDirectory() as directory, ExitStack() as stack:
        weights = Path(directory, "weights.pt")
        torch.save(GPT2(shapes(device, quick)[index].config).state_dict(), weights)
        arguments = ["--device", device, "--shape", str(index), "--weights", str(weights)]
        arguments += ["--quick"] if quick else []
        yield {
            name: stack.enter_context(
                Side("benchmarks.training_step", *arguments, "--side", name, ours=name == "ours")
            )
            for name in names or sides_on(device)
        }


def agreement(sides: Mapping[str, Side]) -> str:
    """What the sides that have had their turns agree in, as a sentence."""
    first = {name: side.results[0]["loss"] for name, side in sides.items()}
    if max(first.values()) - min(first.values()) > 2e-3 * min(first.values()):
        raise SystemExit(f"the sides do not compute the same loss: {first}")
    return "the losses of the first step are within 0.2 % of each other"


def measure(index: int, device: str, rounds: int, quick: bool) -> Row:
    """The row of one shape."""
    shape = shapes(device, quick)[index]
    with started(index, device, quick) as sides:
        timings = take_turns(sides, rounds)
        check = agreement(sides)
        results = {name: side.results for name, side in sides.items()}
    tokens = shape.steps * shape.B * shape.T
    # Of the same round, so that a slow moment of the machine falls on both.
    shares = [
        tokens * flops.token_flops(shape.config, shape.T) / seconds / found["rate"]
        for seconds, found in zip(timings["ours"].clock, results["ours"][1:], strict=True)
    ]
    figures = {
        f"share of the rate of one large matrix product ({results['ours'][0]['dtype']})": median(
            shares
        ),
        "rate of one large matrix product, GFLOP/s": median(
            found["rate"] / 1e9 for found in results["ours"]
        ),
    }
    if device == "cpu":
        products, others = (
            median(found[kind] for found in results["ours"]) for kind in ("products", "others")
        )
        figures["of a step of ours, ms"] = median(timings["ours"].clock) / shape.steps * 1e3
        figures["matrix products, ms"] = products * 1e3
        figures["GELU, softmax, norms and update, ms"] = others * 1e3
        for peer in [*timings][1:]:
            most = median(timings[peer].clock) / shape.steps / (products + others)
            figures[f"faster than {peer} by, if nothing else took time"] = most
    for name, found in results.items():
        figures[f"peak memory of {name}, MiB"] = found[-1]["peak_mib"]
    if device == "cuda":
        for name, side in sides.items():
            figures[f"first turn of {name}, compilation included, s"] = side.samples[0].clock
    return Row(
        work=f"training step, {shape.name}, T={shape.T}, B={shape.B}, V={shape.V}",
        amount=tokens,
        unit="tokens",
        sides=timings,
        goals=shape.goals.get(kind() if device == "cpu" else device, {}),
        checks=[check],
        figures=figures,
    )


def sides_on(device: str) -> list[str]:
    """Ours first; Hugging Face's where it is installed."""
    eager = ["ours, eager"] if device == "cuda" else []
    return ["ours", "nanoGPT", *(["Trainer"] if hugging_face_is_here() else []), *eager]


Weights = dict[str, Tensor]


class Indispensable(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the seconds of what no step can be without on a CPU, forward and backward: matrix
    products, and beside them what computes each value but once, by PyTorch's own kernels."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm_")
    OTHERS = (
        "gelu",
        "gelu_backward",
        "_softmax",
        "native_layer_norm",
        "native_layer_norm_backward",
        "_fused_adamw_",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.products = self.others = 0.0

    def __torch_dispatch__(
        self, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        started = time.perf_counter()
        result = operation(*args, **(kwargs or {}))
        seconds = time.perf_counter() - started
        name = operation.overloadpacket.__name__
        self.products += seconds if name in self.PRODUCTS else 0
        self.others += seconds if name in self.OTHERS else 0
        return result


def ours(shape: Shape, device: str, weights: Weights, compiled: bool = True) -> None:
    """The step of `gpt2.training.trainer`, with its defaults; compiled on a GPU only."""
    compiled = compiled and device == "cuda"
    params = TrainParams(lr=6e-4, batch_size=shape.B, compile=compiled)
    runtime = choose_runtime(DeviceParams(device=device))  # type: ignore[arg-type]  # click checked
    model = GPT2(shape.config)
    model.load_state_dict(weights)
    model.to(runtime.device).train()
    state = TrainState.create(model, params, runtime)
    loss_of = choose_loss(model, params, runtime, steps=10**6)
    batch = Batch(*shape.batch(device))
    losses: list[float] = []
    peaks: list[float] = []

    def step() -> None:
        update = train_step(state, [batch], loss_of, runtime, params.grad_clip)
        losses.append(update.loss)

    def result() -> dict[str, Any]:
        if not peaks:  # before anything is counted, which takes memory by itself
            step()  # the first one that has the optimizer's state from its beginning
            peaks.append(peak_memory_mib(runtime.device))
        large = (4096, 8192) if device == "cuda" else (max(shape.n_embd, 768), 2048)
        found: dict[str, Any] = {
            "loss": losses[0],
            "peak_mib": peaks[0],
            "dtype": dtype_name(runtime.dtype),
            "rate": flops.measured_rate(runtime, *large),
        }
        if device == "cpu":
            with Indispensable() as kernels:
                step()
            found |= {"products": kernels.products, "others": kernels.others}
        return found

    def steps() -> None:
        for _ in range(shape.steps):
            step()

    serve(steps, result)


def nanogpt(shape: Shape, device: str, weights: Weights) -> None:
    """nanoGPT's recipe."""
    gpu = device == "cuda"
    unused = -shape.V % 64  # entries of its vocabulary: 50,304 instead of 50,257
    model = GPT(shape.V + unused, shape.T, shape.n_layer, shape.n_head, shape.n_embd)
    model.take({**weights, "wte.weight": F.pad(weights["wte.weight"], (0, 0, 0, unused))})
    model = model.to(device).train()
    if gpu:
        model.compile()
    step = training(model, autocast=gpu, fused=gpu)
    inputs, targets = shape.batch(device)
    losses: list[float] = []

    def result() -> dict[str, float]:
        return {"loss": losses[0], "peak_mib": peak_memory_mib(torch.device(device))}

    serve(lambda: losses.extend(step(inputs, targets) for _ in range(shape.steps)), result)


def hugging_face(shape: Shape, device: str, weights: Weights) -> None:
    """`transformers.Trainer` with its defaults, except that nothing is saved, shown or dropped."""
    import transformers

    from gpt2.model.openai_tensors import to_openai

    gpu = device == "cuda"
    config = transformers.GPT2Config(
        vocab_size=shape.V,
        n_positions=shape.T + 1,  # it takes the targets from the inputs
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        bos_token_id=0,
        eos_token_id=0,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    state = to_openai(weights)
    state["wpe.weight"] = torch.nn.functional.pad(state["wpe.weight"], (0, 0, 0, 1))
    model.transformer.load_state_dict(state)
    inputs, targets = shape.batch("cpu")
    tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
    turns, losses = Turns(), list[float]()

    class Rows(torch.utils.data.IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for row in itertools.cycle(tokens):
                yield {"input_ids": row, "labels": row}

    class Heard(transformers.Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            loss: Tensor = super().training_step(*arguments, **named)
            # It divides by all labels, though the first of a row is never a target.
            losses.append(float(loss) * (shape.T + 1) / shape.T)
            return loss

    class InTurns(transformers.TrainerCallback):
        def on_step_begin(self, *arguments: Any, **named: Any) -> None:
            if len(losses) % shape.steps == 0 and not turns.wait():
                raise SystemExit

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            if len(losses) % shape.steps == 0:
                peak = peak_memory_mib(torch.device(device))
                turns.done(lambda: {"loss": losses[0], "peak_mib": peak})

    with TemporaryDirectory() as directory:
        arguments = transformers.TrainingArguments(
            output_dir=directory,
            max_steps=10**6,
            per_device_train_batch_size=shape.B,
            use_cpu=not gpu,
            bf16=gpu,
            torch_compile=gpu,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        Heard(model, arguments, train_dataset=Rows(), callbacks=[InTurns()]).train()


SIDE: dict[str, Callable[[Shape, str, Weights], None]] = {
    "ours": ours,
    "ours, eager": partial(ours, compiled=False),
    "nanoGPT": nanogpt,
    "Trainer": hugging_face,
}


if __name__ == "__main__":
    main()
