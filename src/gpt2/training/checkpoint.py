"""Work in progress that survives a crash: weights, optimizers, random state, and where we were.

A stopped run goes on from its last checkpoint and ends bit for bit where an undisturbed one ends.
Safetensors and JSON only: loading a checkpoint cannot run code.
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
"""All that decides the result of a run: parameters, digests of its inputs, digest of the code."""


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
        """Wait until no other process works on this run: two experiments may share a stage."""

        def say(holder: str) -> None:
            log.info("waiting for process %s, which works on the same run (%s)", holder, self.path)

        with locked(self.path.with_suffix(".lock"), on_wait=say):
            yield

    def save(self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` and ``state`` as the checkpoint before ``step``; drop the rest."""
        directory = self.path / f"step-{step:08d}"
        with files.new_directory(directory) as new:
            _write(new, {"step": step, "fingerprint": dict(self.fingerprint), **state}, tensors)
        # Older ones, and what a killed process left half-written under a temporary name.
        for other in self.path.iterdir():
            if other != directory:
                shutil.rmtree(other)

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """State and tensors of the last whole checkpoint; None to start afresh, saying why if the
        stage has left checkpoints of another fingerprint.

        Raises:
            UserError: the checkpoint is damaged.
        """
        found = self._checkpoints()
        if not found:
            self._explain_fresh_start()
            return None
        files.read_manifest(found[-1])
        state = files.read_json(found[-1] / STATE)
        log.info("going on from the checkpoint at step %d", state["step"])
        return state, load_file(found[-1] / TENSORS)

    def clear(self) -> None:
        """Delete this run's checkpoints: the stage has written its output."""
        # Renamed first: half of a checkpoint, after a kill, would be refused as damaged.
        rubbish = self.path.with_name(f".{self.path.name}.tmp")
        shutil.rmtree(rubbish, ignore_errors=True)
        if self.path.exists():
            self.path.rename(rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self._checkpoints())

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("step-*"))

    def _explain_fresh_start(self) -> None:
        for state_file in sorted(self.root.glob(f"{self.stage}-*/step-*/{STATE}")):
            try:
                other = files.read_json(state_file)
            except UserError:
                continue  # damaged, or an experiment beside this one has just replaced it
            changed = differences(other["fingerprint"], json.loads(json.dumps(self.fingerprint)))
            log.info(
                "starting afresh: the checkpoint at step %d has another %s",
                other["step"],
                ", ".join(changed),
            )


@dataclass(frozen=True)
class SharedState:
    """``root/stage-shared/``: a state of the last run that one with more steps passes, too.

    It outlives the run, so that the longer one goes on from it. There is one for a stage, which
    takes the room of a checkpoint.
    """

    root: Path
    stage: str
    fingerprint: Fingerprint
    """Of all but the number of steps."""

    @property
    def path(self) -> Path:
        return self.root / f"{self.stage}-shared"

    def save(
        self, step: int, steps: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Keep the state before ``step`` of a run of ``steps``, in place of what is there.

        Step 0, without tensors: the run has none to share.
        """
        about = {"step": step, "steps": steps, "fingerprint": dict(self.fingerprint)}
        with self._alone(), files.new_directory(self.path) as new:
            _write(new, {**about, **state}, tensors)

    def load(self, steps: int, stable: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """State and tensors for a run of ``steps``, in which those before step ``stable`` do not
        depend on their number. None to start afresh, saying why unless it is the same run again.

        Raises:
            UserError: what would be used is damaged.
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
                    "starting afresh: %s had another learning rate after step %d. More steps go on "
                    "where it is constant (min_lr_fraction: 1) or falls in the last decay_steps",
                    *(run, stable),
                )
                return None
            if state["step"] > stable:
                log.info(
                    "starting afresh: %s has left its state at step %d, but a run of %d is the "
                    "same only up to step %d",
                    *(run, state["step"], steps, stable),
                )
                return None
            files.read_manifest(self.path)
            log.info("going on from step %d of %s: both are the same so far", state["step"], run)
            return state, load_file(self.path / TENSORS)

    def _alone(self) -> AbstractContextManager[None]:
        return locked(self.path.with_suffix(".lock"))


def _write(directory: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / TENSORS)
    files.write_json(directory / STATE, state)


def code_digest() -> str:
    """One sha256 for this package's source and what lies beside the running program, which calls
    it: a checkpoint of other code is not gone on from."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    if program := getattr(sys.modules["__main__"], "__file__", None):
        sources += sorted(Path(program).parent.glob("*.py"))
    lines = [f"{files.sha256(source)}  {source.name}\n" for source in sources]
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
    """Weights, optimizer states and random states as one flat table of tensors."""
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
    """Put back what `pack` took."""
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
