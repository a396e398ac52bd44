"""Checkpoints: weights, optimizer states, random states and progress of an unfinished run.

A run that is stopped and resumed ends bit for bit where an uninterrupted run ends. The files are
safetensors and JSON, so loading a checkpoint cannot run code.
"""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.locks import locked

log = logging.getLogger(__name__)

STATE, TENSORS = "state.json", "tensors.safetensors"
"""The files of a checkpoint."""
Fingerprint = Mapping[str, Any]
"""Everything that decides the result of a run: parameters, digests of its inputs and its code."""
TRAINING_CODE = ("core/device.py", "data", "model", "training")
"""Files and folders of this package that decide the result of a run."""


@dataclass(frozen=True)
class RunDirectory:
    """``root/stage-<hash of fingerprint>/``: the checkpoints of one run of a stage."""

    root: Path
    stage: str
    fingerprint: Fingerprint

    @property
    def path(self) -> Path:
        text = json.dumps(self.fingerprint, sort_keys=True)
        return self.root / f"{self.stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of this run, and wait for it if another experiment trains the same run."""

        def say(holder: str) -> None:
            log.info("waiting for process %s, which works on the same run (%s)", holder, self.path)

        with locked(self.path.with_suffix(".lock"), on_wait=say):
            yield

    def save(self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Save ``state`` and ``tensors`` as the checkpoint before ``step``; delete all others."""
        directory = self.path / f"step-{step:08d}"
        with files.new_directory(directory) as new:
            _write(new, {"step": step, "fingerprint": dict(self.fingerprint), **state}, tensors)
        # Older checkpoints, and unfinished ones that a killed process left under a temporary name.
        for other in self.path.iterdir():
            if other != directory:
                shutil.rmtree(other)

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """State and tensors of the last checkpoint; None if there is none.

        If there are checkpoints of the stage with another fingerprint, the log says what differs.

        Raises:
            UserError: the checkpoint is damaged.
        """
        found = self._checkpoints()
        if not found:
            self._explain_fresh_start()
            return None
        files.read_manifest(found[-1])
        state = files.read_json(found[-1] / STATE)
        log.info("resuming from the checkpoint at step %d", state["step"])
        return state, load_file(found[-1] / TENSORS)

    def clear(self) -> None:
        """Delete all checkpoints of this run, once the stage has written its output."""
        # Renamed first: after a kill, a half-deleted checkpoint would be refused as damaged.
        discarded = self.path.with_name(f".{self.path.name}.tmp")
        shutil.rmtree(discarded, ignore_errors=True)
        if self.path.exists():
            self.path.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self._checkpoints())

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("step-*"))

    def _explain_fresh_start(self) -> None:
        for state_file in sorted(self.root.glob(f"{self.stage}-*/step-*/{STATE}")):
            try:
                other = files.read_json(state_file)
            except UserError:
                continue  # damaged, or just replaced by another experiment
            changed = differences(other["fingerprint"], json.loads(json.dumps(self.fingerprint)))
            log.info(
                "starting afresh: the checkpoint at step %d has another %s",
                other["step"],
                ", ".join(changed),
            )


@dataclass(frozen=True)
class SharedState:
    """``root/stage-shared/``: a state of the last run that a run with more steps would reach, too.

    It outlives the run, so that a longer run can resume from it. Each stage has one, as large as a
    checkpoint.
    """

    root: Path
    stage: str
    fingerprint: Fingerprint
    """Everything that decides the result of a run, except the number of steps."""

    @property
    def path(self) -> Path:
        return self.root / f"{self.stage}-shared"

    def save(
        self, step: int, steps: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Save the state before ``step`` of a run of ``steps``, replacing the one that is there.

        Step 0 without tensors means that the run has no state to share.
        """
        about = {"step": step, "steps": steps, "fingerprint": dict(self.fingerprint)}
        with self._alone(), files.new_directory(self.path) as new:
            _write(new, {**about, **state}, tensors)

    def load(self, steps: int, stable: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """State and tensors for a run of ``steps``; None to start afresh.

        The log says why a run starts afresh, unless it is the same run again.

        Args:
            steps: the length of the run.
            stable: the steps before this one are the same in a run of any length.

        Raises:
            UserError: the state is damaged.
        """
        with self._alone():
            if not self.path.exists():
                return None
            state = files.read_json(self.path / STATE)
            run = f"the run of {state['steps']} steps"
            changed = differences(state["fingerprint"], json.loads(json.dumps(self.fingerprint)))
            if changed and state["step"]:
                log.info("starting afresh: %s had another %s", run, ", ".join(changed))
            if changed or state["steps"] == steps:
                return None
            if state["step"] == 0:
                log.info(
                    "starting afresh: %s had another learning rate after step %d. A longer run "
                    "resumes if the rate is constant (min_lr_fraction: 1) or falls in the last "
                    "decay_steps only",
                    *(run, stable),
                )
                return None
            if state["step"] > stable:
                log.info(
                    "starting afresh: %s saved its state at step %d, but a run of %d is the same "
                    "only up to step %d",
                    *(run, state["step"], steps, stable),
                )
                return None
            files.read_manifest(self.path)
            log.info("resuming from step %d of %s: both are the same so far", state["step"], run)
            return state, load_file(self.path / TENSORS)

    def _alone(self) -> AbstractContextManager[None]:
        return locked(self.path.with_suffix(".lock"))


def _write(directory: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / TENSORS)
    files.write_json(directory / STATE, state)


def code_digest() -> str:
    """One sha256 for the code that decides a training run: `TRAINING_CODE` and the running stage.

    A checkpoint is not resumed by other code.
    """
    package = Path(__file__).parents[1]
    sources: list[Path] = []
    for name in TRAINING_CODE:
        place = package / name
        sources += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    lines = [f"{files.sha256(path)}  {path.relative_to(package)}\n" for path in sources]
    if stage := getattr(sys.modules["__main__"], "__file__", None):
        lines.append(f"{files.sha256(Path(stage))}  {Path(stage).name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def differences(old: object, new: object, key: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if old == new else [key]
    found: list[str] = []
    for name in sorted({*old, *new}):
        found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    return found


def pack(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Weights, optimizer states and random states as one flat dictionary of tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer/{index}/{parameter}/{name}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def unpack(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Load what `pack` returned."""
    model.load_state_dict(
        {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    )
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"optimizer/{index}/"):
                _, _, parameter, name = key.split("/")
                state.setdefault(int(parameter), {})[name] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
