"""When a run is saved, and from where it resumes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gpt2.core.errors import UserError
from gpt2.training.checkpoint import RunDirectory, SharedState
from gpt2.training.optim import stable_steps
from gpt2.training.params import TrainParams
from gpt2.training.state import TrainState


class NotFiniteError(UserError):
    """A loss or gradient is NaN or infinite; the weights were not updated with it."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run of ``steps`` optimizer steps."""

    run_directory: RunDirectory
    shared: SharedState | None
    """The state of the last run that a longer one resumes from; None: no run does."""
    steps: int
    params: TrainParams

    def resume(self, state: TrainState) -> None:
        """Restore the last checkpoint of this run, or else the shared state, if there is one."""
        longer = None
        if self.shared is not None and not self.run_directory.started:
            longer = self.shared.load(self.steps, self._stable)
        if resumed := longer or self.run_directory.load():
            state.restore(*resumed)
        if longer:
            # The last step of the shorter run has a point, whatever the interval.
            interval, history = self.params.log_interval, state.history
            history.curve = [point for point in history.curve if point["step"] % interval == 0]

    @contextmanager
    def before_step(self, state: TrainState) -> Iterator[None]:
        """Save the state before an optimizer step that fails with a `NotFiniteError`, so that a new
        start repeats the step with the same batch and the same random numbers.

        Raises:
            NotFiniteError: with advice, and whether there is such a checkpoint.
        """
        random_state = torch.get_rng_state()
        try:
            yield
        except NotFiniteError as error:
            torch.set_rng_state(random_state)
            kept = "The weights are not finite either: the last checkpoint stays as it is"
            if state.is_finite:
                self.save(state)
                kept = (
                    f"{self.run_directory.path} has a checkpoint from just before: started again, "
                    "the stage repeats this step with the same batch"
                )
            raise NotFiniteError(
                f"{error}; stopped before the update. {kept}. Lower lr, or set dtype: float32"
            ) from error

    def after_step(self, state: TrainState, stopping: bool) -> None:
        """Save the shared state, and the run itself at each `checkpoint_interval`.

        ``stopping``: the run is about to be interrupted, and the caller saves it.
        """
        if self.shared and state.step == self._stable > self.params.warmup_steps:
            self.shared.save(state.step, self.steps, *state.packed())
        at_interval = state.step % self.params.checkpoint_interval == 0
        if at_interval and state.step < self.steps and not stopping:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Save a checkpoint of this run."""
        self.run_directory.save(state.step, *state.packed())

    def finish(self) -> None:
        """Mark a completed run that no longer run can resume from."""
        if self.shared and self._stable <= self.params.warmup_steps:
            self.shared.save(0, self.steps, {}, {})

    @property
    def _stable(self) -> int:
        return stable_steps(self.steps, self.params)
