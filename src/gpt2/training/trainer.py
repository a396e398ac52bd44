"""Training, for pretraining and finetuning alike: only their batches differ (tutorial part 4).

fit -> train_step -> forward_backward -> loss_sum. The loss is a sum over the targets that count,
divided by their number in the whole optimizer step, so micro-batches and padding change nothing.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from gpt2.core.device import Runtime, choose_runtime, peak_memory_mib
from gpt2.core.errors import UserError
from gpt2.core.interrupts import delayed_interrupts
from gpt2.core.progress import Progress
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.model.attention import keep_from_compiler
from gpt2.model.gpt2 import GPT2
from gpt2.model.loss import ChunkLoss, fusable_chunk_loss, linear_cross_entropy
from gpt2.tracking.tracker import Tracker
from gpt2.training import checkpoint
from gpt2.training.checkpoint import RunDirectory, SharedState
from gpt2.training.optim import lr_factor, make_optimizers, set_lr, stable_steps
from gpt2.training.outliers import slid, z_score
from gpt2.training.pace import Pace
from gpt2.training.params import TrainParams

log = logging.getLogger(__name__)

COMPILE_PAYS_AFTER = {"cuda": 200}
"""Optimizer steps from which `compile: auto` compiles; on a CPU it gains nothing."""


class TrainingBatches(Protocol):
    """The training data: the micro-batches of an optimizer step, a pure function of its number."""

    def __call__(self, step: int) -> Sequence[Batch]: ...


class Update(NamedTuple):
    """What an optimizer step was like."""

    loss: float
    """Mean over the targets that count, in nats."""
    grad_norm: float
    """Before clipping."""
    n_targets: int
    """Targets that count."""


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

    def add(
        self, step: int, update: Update, lr: float, tokens: int, flops: float, seconds: float
    ) -> dict[str, float]:
        """Count an optimizer step; its point, which the caller may add to the curve."""
        self.tokens += tokens
        self.flops += flops
        self.seconds += seconds
        self.losses = slid(self.losses, update.loss)
        self.grad_norms = slid(self.grad_norms, update.grad_norm)
        return {
            "step": step,
            "loss": update.loss,
            "lr": lr,
            "grad_norm": update.grad_norm,
            **self.z_scores,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / self.product_rate,
        }

    @property
    def z_scores(self) -> dict[str, float]:
        """How unusual the last step was; empty until there are enough to compare with."""
        scores = {"loss_z": z_score(self.losses), "grad_norm_z": z_score(self.grad_norms)}
        return {name: score for name, score in scores.items() if score is not None}

    @property
    def best(self) -> dict[str, float]:
        """The evaluation with the lowest loss, the earlier one if two are equal."""
        return min(self.evaluations, key=lambda point: point["val_loss"])


@dataclass
class TrainState:
    """All that training changes, and a checkpoint holds."""

    model: GPT2
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    """Optimizer steps that are done."""
    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best evaluation, if they are to be kept."""

    @property
    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.model.parameters())

    def keep_best(self) -> None:
        """These weights are the best so far."""
        self.best = {f"best/{name}": t.clone() for name, t in self.model.state_dict().items()}

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Values and tensors for a checkpoint."""
        values = {"history": vars(self.history), "scaler": self.scaler.state_dict()}
        return values, {**checkpoint.pack(self.model, self.optimizers), **self.best}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put back what a checkpoint holds."""
        checkpoint.unpack(tensors, self.model, self.optimizers)
        self.scaler.load_state_dict(values["scaler"])
        self.step, self.history = values["step"], History(**values["history"])
        self.best = {name: t for name, t in tensors.items() if name.startswith("best/")}
        # The evaluation after the last step may be there already: it is made once more.
        self.history.evaluations = [e for e in self.history.evaluations if e["step"] < self.step]


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
    shared: SharedState | None = None,
) -> History:
    """Train ``model`` in place for ``steps`` optimizer steps, or go on from a checkpoint.

    ``keep="best"`` leaves the weights of the best evaluation in the model, else the last ones stay.
    ``on_evaluation(step)`` is called after each evaluation, to show sample text. A run with more
    steps goes on from what the one before has left in ``shared``, if learning rates allow it.

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
    state = TrainState(model, optimizers, scaler)
    stable = stable_steps(steps, params)
    longer = None if shared is None or run_directory.started else shared.load(steps, stable)
    if resumed := longer or run_directory.load():
        state.restore(*resumed)
    history = state.history
    if longer:  # the last step of the run before has a point, whatever the interval
        history.curve = [p for p in history.curve if p["step"] % params.log_interval == 0]
    loss_of = choose_loss(model, params, runtime, steps)
    pace = Pace(
        *(model.config, runtime),
        muon=params.optimizer == "muon",
        recomputing=params.activation_checkpointing,
    )
    progress = Progress(run_directory.stage, steps, "step", start=state.step)
    tracker.begin(run_directory.path)
    # What a killed process had not sent yet; the tracker leaves out what it had.
    for point in [*history.curve, *history.evaluations]:
        _tell(tracker, point)

    with delayed_interrupts() as interrupt:
        for step in range(state.step, steps + 1):
            if step % params.eval_interval == 0 or step == steps:
                loss = evaluate(model, validation(), runtime).loss
                history.evaluations.append({"step": step, "val_loss": loss})
                _tell(tracker, history.evaluations[-1])
                progress.note(f"step {step}: val_loss {loss:.4f}")
                if keep == "best" and history.best["step"] == step:
                    state.keep_best()
                on_evaluation(step)
            if step == steps:
                break

            started = time.perf_counter()
            factor = lr_factor(
                *(step, steps, params.warmup_steps, params.min_lr_fraction, params.decay_steps)
            )
            set_lr(optimizers, factor)
            batches = train(step)
            random_state = torch.get_rng_state()
            try:
                update = train_step(
                    loss_of, model, batches, optimizers, scaler, runtime, params, step
                )
            except NotFiniteError as error:
                torch.set_rng_state(random_state)
                kept = "The weights are not finite either: the last checkpoint stays as it is"
                if state.is_finite:
                    run_directory.save(step, *state.packed())
                    kept = (
                        f"{run_directory.path} has a checkpoint of just before: the stage, started "
                        "again, repeats this step with the same batch"
                    )
                raise NotFiniteError(
                    f"{error}; stopped before the update. {kept}. Lower lr, or set dtype: float32"
                ) from error
            seconds = time.perf_counter() - started
            state.step = step + 1

            tokens = sum(batch.inputs.numel() for batch in batches)
            flops = pace.step(batches, update.n_targets, seconds)
            history.product_rate = pace.speed.products
            history.peak_memory_mib = max(history.peak_memory_mib, peak_memory_mib(runtime.device))
            point = history.add(step, update, params.lr * factor, tokens, flops, seconds)
            if step % params.log_interval == 0 or state.step == steps:
                history.curve.append(point)
                _tell(tracker, point)
            progress.advance(_figures(history, point))

            if shared and state.step == stable > params.warmup_steps:
                shared.save(state.step, steps, *state.packed())
            if interrupt.signal is not None:
                break
            if state.step % params.checkpoint_interval == 0 and state.step < steps:
                run_directory.save(state.step, *state.packed())
        if interrupt.signal is not None:
            run_directory.save(state.step, *state.packed())
    progress.close()
    if shared and stable <= params.warmup_steps:
        shared.save(0, steps, {}, {})
    if keep == "best":
        best = {name.removeprefix("best/"): t for name, t in state.best.items()}
        model.load_state_dict(best)
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
) -> Update:
    """One optimizer step over micro-batches."""
    n_targets = sum(int((batch.targets != IGNORE_INDEX).sum()) for batch in batches)
    if n_targets == 0:
        raise UserError(f"step {step}: no target in the batch counts towards the loss")
    losses = [
        forward_backward(loss_of, model, batch, n_targets, scaler, runtime) for batch in batches
    ]
    loss = float(torch.stack(losses).sum())
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    clip = math.inf if params.grad_clip is None else params.grad_clip
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    # float16 finds its scale by overflowing: there the scaler leaves out the update by itself.
    if not math.isfinite(loss) or not (math.isfinite(grad_norm) or scaler.is_enabled()):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        bad = [str(i) for i, one in enumerate(losses, 1) if not math.isfinite(one)]
        where = f" in micro-batch {', '.join(bad)} of {len(losses)}" if bad else ""
        raise NotFiniteError(f"step {step}: loss {loss}{where}, gradient norm {grad_norm}")
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return Update(loss, grad_norm, n_targets)


def forward_backward(
    loss_of: Callable[[GPT2, Batch], Tensor],
    model: GPT2,
    batch: Batch,
    n_targets: int,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
) -> Tensor:
    """Add a micro-batch's gradient of the mean loss over ``n_targets``; its part of that loss."""
    batch = batch.to(runtime.device)
    with runtime.autocast():
        loss = loss_of(model, batch) / n_targets
    torch.autograd.backward(scaler.scale(loss))
    return loss.detach()


def _figures(history: History, last: Mapping[str, float]) -> str:
    """The last step and the speed so far, for people."""
    z = {key: f" (z {last[key]:+.1f})" for key in ("loss_z", "grad_norm_z") if key in last}
    return (
        f"loss {last['loss']:.3f}{z.get('loss_z', '')}, "
        f"grad {last['grad_norm']:.2f}{z.get('grad_norm_z', '')}, "
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


def compiles(params: TrainParams, device: torch.device, steps: int) -> bool:
    """Whether the parameters ask for a compiler in a run of so many steps."""
    if params.compile == "auto":
        return steps >= COMPILE_PAYS_AFTER.get(device.type, steps + 1)
    return params.compile


def choose_loss(
    model: GPT2, params: TrainParams, runtime: Runtime, steps: int
) -> Callable[[GPT2, Batch], Tensor]:
    """`loss_sum`, compiled if the parameters say so and a compiler is there."""
    if not compiles(params, runtime.device, steps):
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
