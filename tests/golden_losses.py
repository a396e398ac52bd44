"""Losses of the first steps of the starter's training on this kind of processor.

``python -m tests.golden_losses muon`` prints them; with ``--keep``, all are recorded as the golden
values of this kind, ``tests/golden/<kind>.json``. Environment variables choose a smaller kind (see
`benchmarks.measure`), ``--dtype`` another dtype. The text is NumPy's documentation alone.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from gpt2.core.device import Runtime, choose_runtime, dtype_name
from gpt2.core.yaml_files import load_yaml
from gpt2.data.instructions import InstructionBatches, collate, encode
from gpt2.data.shards import Tokens
from gpt2.data.sources.package_docs import documented_objects
from gpt2.data.sources.package_instructions import PackageDocsInstructions, make_records
from gpt2.data.train_bpe import train_bpe
from gpt2.data.windows import TrainingWindows
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.finetuning import FinetuneParams
from gpt2.training.loss import loss_sum
from gpt2.training.optim import lr_factor, set_lr
from gpt2.training.params import TrainParams
from gpt2.training.pretraining import PretrainParams
from gpt2.training.state import TrainState
from gpt2.training.trainer import train_step
from scripts.deps import ROOT

GOLDEN = Path(__file__).parent / "golden"
OPTIMIZERS = {"adamw": {"optimizer": "adamw", "lr": 0.002}, "muon": {}}
"""What differs from the starter's parameters, which name Muon and learning rates that suit it."""
STEPS = 20


def kind(runtime: Runtime) -> str:
    """Such as ``avx2-float32``: the instructions that torch uses, and the dtype."""
    used = torch.backends.cpu.get_cpu_capability().lower()
    return f"{used}-{dtype_name(runtime.dtype)}"


def losses(optimizer: str, dtype: str) -> dict[str, Any]:
    """Losses of `STEPS` steps of both stages, from the same random weights."""
    starter = load_yaml(ROOT / "params.yaml")
    changed = {**OPTIMIZERS[optimizer], "device": "cpu", "dtype": dtype}
    pretrain = PretrainParams(**{**starter["pretrain"], **changed})
    finetune = FinetuneParams(**{**starter["finetune"], **changed})
    objects = documented_objects(["numpy"], "corpus.packages")
    texts = [item.text for item in objects]
    tokenizer = train_bpe(texts, starter["tokenizer"]["vocab_size"])
    config = GPT2Config(vocab_size=tokenizer.n_vocab, **pretrain.model.model_dump())

    ids = tokenizer.encode_documents(texts).astype(np.uint16)
    tokens = Tokens([ids], len(texts), sum(map(len, texts)), tokenizer.n_vocab)
    windows = TrainingWindows(tokens, config.context_length, pretrain.batch_size, pretrain.seed)
    records = make_records(objects, PackageDocsInstructions(**starter["instructions"]))
    found = [encode(record, tokenizer, config.context_length, "truncate")[0] for record in records]
    examples = [example for example in found if example]
    answers = InstructionBatches(
        examples,
        finetune.batch_size,
        None,
        finetune.seed,
        partial(collate, loss_on=finetune.loss_on),
    )
    runtime = choose_runtime(pretrain)
    return {
        "kind": kind(runtime),
        "pretrain": train(config, pretrain, pretrain.steps, runtime, lambda step: [windows(step)]),
        "finetune": train(config, finetune, pretrain.steps, runtime, answers),
    }


def train(
    config: GPT2Config, params: TrainParams, steps: int, runtime: Runtime, batches: Any
) -> list[float]:
    """The first losses of a training whose learning rate falls over ``steps``."""
    torch.manual_seed(params.seed)
    state = TrainState.create(GPT2(config).train(), params, runtime)
    found = []
    for step in range(STEPS):
        factor = lr_factor(step, steps, params.warmup_steps, params.min_lr_fraction)
        set_lr(state.optimizers, factor)
        update = train_step(state, batches(step), loss_sum, runtime, params.grad_clip)
        found.append(round(update.loss, 6))
    return found


@click.command()
@click.argument("optimizer", type=click.Choice([*OPTIMIZERS]), required=False)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--keep", is_flag=True, help="Write the golden values of this kind anew.")
def main(optimizer: str | None, dtype: str, keep: bool) -> None:
    """Losses of the first steps of the starter's two kinds of training."""
    found = {name: losses(name, dtype) for name in ([optimizer] if optimizer else OPTIMIZERS)}
    if not keep:
        print(json.dumps(found))
        return
    [name] = {of_one.pop("kind") for of_one in found.values()}
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
