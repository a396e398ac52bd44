"""Training, for pretraining and finetuning alike: only their batches differ (tutorial part 4).

fit -> train_step -> loss_sum. The loss is a sum over the targets that count, divided by their
number in the whole optimizer step, so micro-batches and padding change nothing.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from gpt2 import checkpoint
from gpt2.attention import keep_from_compiler
from gpt2.batch import IGNORE_INDEX, Batch
from gpt2.checkpoint import RunDirectory
from gpt2.device import DeviceParams, Runtime, choose_runtime, peak_memory_mib
from gpt2.errors import UserError
from gpt2.interrupts import held_back
from gpt2.loss import ChunkLoss, fusable_chunk_loss, linear_cross_entropy
from gpt2.model import GPT2
from gpt2.optim import OptimizerParams, lr_factor, make_optimizers, set_lr
from gpt2.outliers import slid, z_score
from gpt2.pace import Pace
from gpt2.params import NonNegative, Positive
from gpt2.progress import Progress
from gpt2.tracking import Tracker

log = logging.getLogger(__name__)

COMPILE_PAYS_AFTER = {"cuda": 200}
"""Optimizer steps from which `compile: auto` compiles; on a CPU it gains nothing."""


class TrainParams(OptimizerParams, DeviceParams):
    """How a model is trained, apart from where its batches come from."""

    seed: NonNegative = 123
    batch_size: Positive
    """Sequences in an optimizer step."""
    micro_batch_size: Positive | None = None
    """Sequences that are in memory at once; their gradients accumulate. None: the whole batch."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile; auto: on a GPU, where the run is long enough to pay for a slow start."""
    activation_checkpointing: bool = False
    """Keep only what enters each block and compute the rest again for its gradient: much less
    memory, a third more time (Chen et al. 2016)."""
    eval_interval: Positive = 100
    """Steps between evaluations on the validation split."""
    log_interval: Positive = 10
    """Steps between points of the loss curve."""
    checkpoint_interval: Positive = 200
    """Steps between checkpoints for resuming."""


class TrainingBatches(Protocol):
    """The training data: the micro-batches of an optimizer step, a pure function of its number."""

    def __call__(self, step: int) -> Sequence[Batch]: ...


@dataclass
class History:
    """What a run has seen so far; saved with its checkpoints, so a resumed run has one curve."""

    curve: list[dict[str, float]] = field(default_factory=list)
    """Each `log_interval`: step, loss, lr, grad_norm, tokens_per_second, mfu (see `mfu`), and once
    there are enough steps to compare with, loss_z and grad_norm_z."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Each `eval_interval`: step, val_loss."""
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    """Of the last steps, for z-scores."""
    tokens: int = 0
    """Input tokens trained on."""
    flops: float = 0.0
    """Arithmetic of the model in training steps."""
    seconds: float = 0.0
    """Time in training steps."""
    peak_memory_mib: float = 0.0
    product_rate: float = 0.0
    """FLOP/s of the model's largest products alone, when this process began."""

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation so far: the share of `product_rate` that training reaches."""
        return self.flops / self.seconds / self.product_rate

    @property
    def z_scores(self) -> dict[str, float]:
        """How unusual the last step was; empty until there are enough to compare with."""
        scores = {"loss_z": z_score(self.losses), "grad_norm_z": z_score(self.grad_norms)}
        return {name: score for name, score in scores.items() if score is not None}

    @property
    def best(self) -> dict[str, float]:
        """The evaluation with the lowest loss, the earlier one if two are equal."""
        return min(self.evaluations, key=lambda point: point["val_loss"])


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over `n_tokens` targets, in nats a token."""

    loss: float
    n_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def bits_per_byte(self, n_bytes: int) -> float:
        """The loss over the text's length: unlike perplexity, comparable between tokenizers."""
        return self.loss * self.n_tokens / n_bytes / math.log(2)


class NotFiniteError(UserError):
    """A loss or gradient that is NaN or infinite; nothing was updated with it."""


def loss_sum(
    model: GPT2,
    batch: Batch,
    features_of: Callable[..., Tensor] | None = None,
    chunk_loss: ChunkLoss | None = None,
) -> Tensor:
    """Cross-entropy summed over the targets that count, in nats.

    Only their features ``(N, C)`` pass the output layer, which costs a third of a small model.
    """
    features = (features_of or model.features)(batch.inputs, lengths=batch.lengths)  # B T C
    counted = batch.targets != IGNORE_INDEX
    return linear_cross_entropy(
        features[counted], model.output_weight, batch.targets[counted], chunk_loss=chunk_loss
    )


@torch.no_grad()
def evaluate(model: GPT2, batches: Iterable[Batch], runtime: Runtime) -> Evaluation:
    """Mean loss over ``batches``, with dropout off; the model's mode is put back."""
    training = model.training
    model.eval()
    total, n_tokens = 0.0, 0
    for batch in batches:
        moved = batch.to(runtime.device)
        with runtime.autocast():
            total += float(loss_sum(model, moved))
        n_tokens += int((batch.targets != IGNORE_INDEX).sum())
    model.train(training)
    if n_tokens == 0:
        raise UserError(
            "the validation split has no token to predict: give it more text or records"
        )
    return Evaluation(total / n_tokens, n_tokens)


def fit(
    model: GPT2,
    steps: int,
    train: TrainingBatches,
    validation: Callable[[], Iterable[Batch]],
    params: TrainParams,
    run_directory: RunDirectory,
    tracker: Tracker,
    keep: Literal["last", "best"] = "last",
    on_evaluation: Callable[[int], None] = lambda step: None,
) -> History:
    """Train ``model`` in place for ``steps`` optimizer steps, or go on from a checkpoint.

    ``keep="best"`` leaves the weights of the best evaluation in the model, else the last ones stay.
    ``on_evaluation(step)`` is called after each evaluation, to show sample text.

    Ctrl-C and SIGTERM take effect after the step in progress and a checkpoint.

    Raises:
        NotFiniteError: the loss or gradient is not finite; the weights are those before that step,
            and a checkpoint holds them, so that starting again replays it.
    """
    runtime = choose_runtime(params)
    torch.manual_seed(params.seed)
    model.to(runtime.device).train()
    if params.activation_checkpointing:
        checkpoint_activations(model)
    optimizers = make_optimizers(model, params, runtime.dtype)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    history, best, first = History(), {}, 0
    if resumed := run_directory.load():
        state, tensors = resumed
        checkpoint.unpack(tensors, model, optimizers)
        best = {name: t for name, t in tensors.items() if name.startswith("best/")}
        scaler.load_state_dict(state["scaler"])
        history, first = History(**state["history"]), state["step"]
        # The last step's may be there already: it is made once more.
        history.evaluations = [e for e in history.evaluations if e["step"] < first]
    loss_of = choose_loss(model, params, runtime, steps)
    pace = Pace(
        *(model.config, runtime),
        muon=params.optimizer == "muon",
        recomputing=params.activation_checkpointing,
    )
    progress = Progress(run_directory.stage, steps, "step", start=first)
    tracker.begin(run_directory.path)
    # What a killed process had not sent yet; the tracker leaves out what it had.
    for point in [*history.curve, *history.evaluations]:
        _tell(tracker, point)

    done = first

    def save() -> None:
        state = {"history": vars(history), "scaler": scaler.state_dict()}
        run_directory.save(done, state, {**checkpoint.pack(model, optimizers), **best})

    with held_back() as interrupt:
        for step in range(first, steps + 1):
            if step % params.eval_interval == 0 or step == steps:
                evaluation = evaluate(model, validation(), runtime)
                history.evaluations.append({"step": step, "val_loss": evaluation.loss})
                _tell(tracker, history.evaluations[-1])
                progress.note(f"step {step}: val_loss {evaluation.loss:.4f}")
                if keep == "best" and history.best["step"] == step:
                    best = {
                        f"best/{name}": t.detach().clone() for name, t in model.state_dict().items()
                    }
                on_evaluation(step)
            if step == steps:
                break

            started = time.perf_counter()
            factor = lr_factor(step, steps, params.warmup_steps, params.min_lr_fraction)
            set_lr(optimizers, factor)
            batches = [batch.to(runtime.device) for batch in train(step)]
            random_state = torch.get_rng_state()
            try:
                loss, grad_norm = train_step(
                    loss_of, model, batches, optimizers, scaler, runtime, params, step
                )
            except NotFiniteError as error:
                torch.set_rng_state(random_state)
                kept = "The weights are not finite either: the last checkpoint stays as it is"
                if all(bool(tensor.isfinite().all()) for tensor in model.parameters()):
                    save()
                    kept = (
                        f"{run_directory.path} has a checkpoint of just before: the stage, started "
                        "again, repeats this step with the same batch"
                    )
                raise NotFiniteError(
                    f"{error}; stopped before the update. {kept}. Lower lr, or set dtype: float32"
                ) from error
            elapsed = time.perf_counter() - started
            tokens = sum(batch.inputs.numel() for batch in batches)
            flops = pace.step(batches, elapsed)
            history.product_rate = pace.speed.products
            history.tokens += tokens
            history.flops += flops
            history.seconds += elapsed
            history.losses = slid(history.losses, loss)
            history.grad_norms = slid(history.grad_norms, grad_norm)
            if step % params.log_interval == 0 or step == steps - 1:
                point = {
                    "step": step,
                    "loss": loss,
                    "lr": params.lr * factor,
                    "grad_norm": grad_norm,
                    **history.z_scores,
                    "tokens_per_second": tokens / elapsed,
                    "mfu": flops / elapsed / history.product_rate,
                }
                history.curve.append(point)
                _tell(tracker, point)
            progress.advance(_figures(history, loss, grad_norm))
            history.peak_memory_mib = max(history.peak_memory_mib, peak_memory_mib(runtime.device))
            done = step + 1
            if interrupt.signal is not None:
                break
            if done % params.checkpoint_interval == 0 and done < steps:
                save()
        if interrupt.signal is not None:
            save()
    progress.close()
    if keep == "best":
        model.load_state_dict({name.removeprefix("best/"): t for name, t in best.items()})
    return history


def train_step(
    loss_of: Callable[[GPT2, Batch], Tensor],
    model: GPT2,
    batches: Sequence[Batch],
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    params: TrainParams,
    step: int,
) -> tuple[float, float]:
    """One optimizer step over micro-batches; its mean loss, and gradient norm before clipping."""
    n_targets = sum(int((batch.targets != IGNORE_INDEX).sum()) for batch in batches)
    if n_targets == 0:
        raise UserError(f"step {step}: no target in the batch counts towards the loss")
    losses = []
    for batch in batches:
        with runtime.autocast():
            loss = loss_of(model, batch) / n_targets
        torch.autograd.backward(scaler.scale(loss))
        losses.append(loss.detach())
    total = float(torch.stack(losses).sum())
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    clip = math.inf if params.grad_clip is None else params.grad_clip
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    # float16 finds its scale by overflowing: there the scaler leaves out the update by itself.
    if not math.isfinite(total) or not (math.isfinite(grad_norm) or scaler.is_enabled()):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        bad = [str(i) for i, loss in enumerate(losses, 1) if not math.isfinite(loss)]
        where = f" in micro-batch {', '.join(bad)} of {len(losses)}" if bad else ""
        raise NotFiniteError(f"step {step}: loss {total}{where}, gradient norm {grad_norm}")
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total, grad_norm


def _figures(history: History, loss: float, grad_norm: float) -> str:
    """The last step and the speed so far, for people."""
    z = {name: f" (z {score:+.1f})" for name, score in history.z_scores.items()}
    return (
        f"loss {loss:.3f}{z.get('loss_z', '')}, grad {grad_norm:.2f}{z.get('grad_norm_z', '')}, "
        f"{history.tokens / history.seconds:,.0f} tokens/s, MFU {100 * history.mfu:.0f} %"
    )


def _tell(tracker: Tracker, point: Mapping[str, float]) -> None:
    """Show a point of the history to the tracker: ``train/loss``, ``val/loss`` and so on."""
    names = {"val_loss": "val/loss"}
    values = {names.get(key, f"train/{key}"): point[key] for key in point if key != "step"}
    tracker.metrics(values, int(point["step"]))


def checkpoint_activations(model: GPT2) -> None:
    """Let each block forget its activations and compute them again on the way back."""
    for block in model.h:
        # In place, so that no parameter changes its name.
        block.forward = partial(recompute, block.forward, use_reentrant=False)


def choose_loss(
    model: GPT2, params: TrainParams, runtime: Runtime, steps: int
) -> Callable[[GPT2, Batch], Tensor]:
    """`loss_sum`, compiled if the parameters say so and a compiler is there."""
    wanted = params.compile
    if wanted == "auto":
        wanted = steps >= COMPILE_PAYS_AFTER.get(runtime.device.type, steps + 1)
    if not wanted:
        return loss_sum
    if runtime.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        log.info("compile: no C++ compiler found; running eagerly")
        return loss_sum
    keep_from_compiler()
    # On a CPU the loss stays in the cache anyway.
    chunk_loss = torch.compile(fusable_chunk_loss) if runtime.device.type != "cpu" else None
    return partial(loss_sum, features_of=torch.compile(model.features), chunk_loss=chunk_loss)


def curves(history: History) -> list[Mapping[str, Any]]:
    """The history as rows of one table: a row a step, with the values known there."""
    rows: dict[float, dict[str, Any]] = {}
    for point in [*history.curve, *history.evaluations]:
        rows.setdefault(point["step"], {}).update(point)
    return [rows[step] for step in sorted(rows)]
