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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2 import files
from gpt2.errors import UserError
from gpt2.locks import locked

log = logging.getLogger(__name__)

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
            save_file(
                {name: t.contiguous() for name, t in tensors.items()}, new / "tensors.safetensors"
            )
            files.write_json(
                new / "state.json", {"step": step, "fingerprint": dict(self.fingerprint), **state}
            )
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
        found = sorted(self.path.glob("step-*"))
        if not found:
            self._explain_fresh_start()
            return None
        files.read_manifest(found[-1])
        state = files.read_json(found[-1] / "state.json")
        log.info("going on from the checkpoint at step %d", state["step"])
        return state, load_file(found[-1] / "tensors.safetensors")

    def clear(self) -> None:
        """Delete this run's checkpoints: the stage has written its output."""
        # Renamed first: half of a checkpoint, after a kill, would be refused as damaged.
        rubbish = self.path.with_name(f".{self.path.name}.tmp")
        shutil.rmtree(rubbish, ignore_errors=True)
        if self.path.exists():
            self.path.rename(rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)

    def _explain_fresh_start(self) -> None:
        for state_file in sorted(self.root.glob(f"{self.stage}-*/step-*/state.json")):
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
