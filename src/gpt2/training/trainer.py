"""Training, for pretraining and finetuning alike: only their batches differ (tutorial part 4).

fit -> train_step -> forward_backward -> loss_sum. The loss is summed over targets and divided by
the number of targets in the whole optimizer step, so neither micro-batches nor padding change it.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from gpt2.core.device import Runtime, choose_runtime, peak_memory_mib
from gpt2.core.errors import UserError
from gpt2.core.interrupts import delayed_interrupts
from gpt2.core.progress import Progress
from gpt2.data.batch import Batch
from gpt2.model.gpt2 import GPT2
from gpt2.tracking.tracker import Tracker
from gpt2.training.checkpoint import RunDirectory, SharedState
from gpt2.training.display import Display
from gpt2.training.execution import Loss, checkpoint_activations, choose_loss
from gpt2.training.history import History, Update
from gpt2.training.loss import count_targets, evaluate
from gpt2.training.optim import lr_factor, set_lr
from gpt2.training.pace import Pace
from gpt2.training.params import TrainParams
from gpt2.training.resuming import Checkpoints, NotFiniteError
from gpt2.training.state import TrainState


class TrainingBatches(Protocol):
    """The training data: the micro-batches of an optimizer step, a pure function of its number."""

    def __call__(self, step: int) -> Sequence[Batch]: ...


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
    """Train ``model`` in place for ``steps`` optimizer steps, or resume from a checkpoint.

    After Ctrl-C or SIGTERM the current step is completed and a checkpoint saved.

    Args:
        keep: which weights the model has at the end: those of the best evaluation, or the last.
        on_evaluation: called with the step after each evaluation, to show sample text.
        shared: what a run with more steps resumes from, if its learning rates so far are the same.

    Raises:
        NotFiniteError: the loss or gradient is not finite. The model has the weights from before
            that step, and so has a checkpoint: a new start repeats the step.
    """
    runtime = choose_runtime(params)
    torch.manual_seed(params.seed)
    model.to(runtime.device).train()
    if params.activation_checkpointing:
        checkpoint_activations(model)
    state = TrainState.create(model, params, runtime)
    checkpoints = Checkpoints(run_directory, shared, steps, params)
    checkpoints.resume(state)
    loss_of = choose_loss(model, params, runtime, steps)
    display = Display(tracker, Progress(run_directory.stage, steps, "step", start=state.step))
    tracker.begin(run_directory.path)
    display.replay(state.history)
    trainer = _Trainer(state, params, steps, runtime, checkpoints, display)

    def validate() -> None:
        trainer.validate(validation(), keep_best=keep == "best")
        on_evaluation(state.step)

    with delayed_interrupts() as interrupt:
        while state.step < steps and interrupt.signal is None:
            if state.step % params.eval_interval == 0:
                validate()
            trainer.step(train, loss_of)
            checkpoints.after_step(state, stopping=interrupt.signal is not None)
        if interrupt.signal is None:
            validate()
        if interrupt.signal is not None:
            checkpoints.save(state)
    display.close()
    checkpoints.finish()
    if keep == "best":
        state.load_best()
    return state.history


class _Trainer:
    """What a run repeats: optimizer steps and evaluations, each recorded and shown."""

    def __init__(
        self,
        state: TrainState,
        params: TrainParams,
        steps: int,
        runtime: Runtime,
        checkpoints: Checkpoints,
        display: Display,
    ) -> None:
        self.state, self.params, self.steps, self.runtime = state, params, steps, runtime
        self.checkpoints, self.display = checkpoints, display
        self.pace = Pace(
            *(state.model.config, runtime),
            muon=params.optimizer == "muon",
            recomputing=params.activation_checkpointing,
        )

    def step(self, train: TrainingBatches, loss_of: Loss) -> None:
        """Take the next optimizer step."""
        state, params, history, step = self.state, self.params, self.state.history, self.state.step
        started = time.perf_counter()
        factor = lr_factor(
            step,
            self.steps,
            params.warmup_steps,
            params.min_lr_fraction,
            params.decay_steps,
        )
        set_lr(state.optimizers, factor)
        batches = train(step)
        with self.checkpoints.before_step(state):
            update = train_step(state, batches, loss_of, self.runtime, params.grad_clip)
        seconds = time.perf_counter() - started
        state.step = step + 1

        tokens = sum(batch.inputs.numel() for batch in batches)
        flops = self.pace.step(batches, update.n_targets, seconds)
        history.product_rate = self.pace.speed.products
        history.peak_memory_mib = max(history.peak_memory_mib, peak_memory_mib(self.runtime.device))
        point = history.add(step, update, params.lr * factor, tokens, flops, seconds)
        if step % params.log_interval == 0 or state.step == self.steps:
            history.curve.append(point)
            self.display.log(point)
        self.display.stepped(history, point)

    def validate(self, batches: Iterable[Batch], keep_best: bool) -> None:
        """Evaluate the model; with ``keep_best``, keep its weights if they are the best so far."""
        state, history = self.state, self.state.history
        loss = evaluate(state.model, batches, self.runtime).loss
        history.evaluations.append({"step": state.step, "val_loss": loss})
        self.display.evaluated(history.evaluations[-1])
        if keep_best and history.best["step"] == state.step:
            state.keep_best()


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    loss_of: Loss,
    runtime: Runtime,
    grad_clip: float | None,
) -> Update:
    """One optimizer step over micro-batches.

    Raises:
        NotFiniteError: the loss or gradient is not finite; the weights are unchanged.
    """
    n_targets = sum(map(count_targets, batches))
    if n_targets == 0:
        raise UserError(f"step {state.step}: no target in the batch counts towards the loss")
    losses = [forward_backward(state, batch, n_targets, loss_of, runtime) for batch in batches]
    loss = float(torch.stack(losses).sum())
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    limit = math.inf if grad_clip is None else grad_clip
    grad_norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), limit))
    # In float16 gradients may overflow: the scaler skips the update and lowers its scale.
    if not math.isfinite(loss) or not (math.isfinite(grad_norm) or state.scaler.is_enabled()):
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        bad = [str(i) for i, one in enumerate(losses, 1) if not math.isfinite(one)]
        where = f" in micro-batch {', '.join(bad)} of {len(losses)}" if bad else ""
        raise NotFiniteError(f"step {state.step}: loss {loss}{where}, gradient norm {grad_norm}")
    for optimizer in state.optimizers:
        state.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    state.scaler.update()
    return Update(loss, grad_norm, n_targets)


def forward_backward(
    state: TrainState, batch: Batch, n_targets: int, loss_of: Loss, runtime: Runtime
) -> Tensor:
    """Add the gradient of a micro-batch.

    Returns:
        Its share of the step's mean loss over ``n_targets``.
    """
    batch = batch.to(runtime.device)
    with runtime.autocast():
        loss = loss_of(state.model, batch) / n_targets
    torch.autograd.backward(state.scaler.scale(loss))
    return loss.detach()
