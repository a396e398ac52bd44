"""Whether this machine has what the pipeline needs, and what to do where it has not.

Every check is quick, changes nothing, and gives its finding instead of raising.
"""

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpt2.core import repository
from gpt2.core.device import DeviceParams, choose_runtime, native_formats
from gpt2.core.errors import UserError
from gpt2.core.processor import (
    BUSY,
    busy_elsewhere,
    core_seconds,
    held_to,
    instruction_sets,
    load,
    usable_cores,
)
from gpt2.data.fetching import http_client
from gpt2.data.sources import local_files
from gpt2.data.sources.local_files import FileCorpus, FileInstructions
from gpt2.evaluation.judge.backends.judges import open_judge
from gpt2.evaluation.judge.params import FileModel, JudgeParams, LlamaCppParams, LlamaEvalParams
from gpt2.report.formats import memory as in_words
from gpt2.tracking.store import STORE, own_store, probe

OLDEST_PYTHON = (3, 11)
NETWORK_SECONDS = 5
PROGRAM_SECONDS = 20
"""For a program of a second or so on an idle machine."""
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    works: bool
    finding: str
    remedy: str = ""
    """What to do if it does not work."""
    needed: bool = True
    """Whether the profile cannot do without."""

    @property
    def verdict(self) -> str:
        """In one word."""
        return "works" if self.works else "problem" if self.needed else "absent"


@dataclass(frozen=True)
class Needs:
    """What a profile asks of a machine, for the stages that have not run yet."""

    wheels: Sequence[str]
    """Requirements that the package index must have."""
    addresses: Sequence[str]
    packages: Sequence[str]
    """Installed distributions beside the pinned ones."""
    sources: Sequence[FileCorpus | FileInstructions]
    checkpoint: Path | None
    """A model directory to start from."""
    judge: JudgeParams
    evaluation: LlamaEvalParams
    devices: Sequence[DeviceParams]
    compiled: bool
    memory: float
    """Bytes."""
    disk: float
    """Bytes."""


def examine(root: Path, needs: Needs | None) -> list[Check]:
    """All checks, side by side; without ``needs`` only those that no profile decides."""
    machine = processor()  # before the other checks keep it busy
    checks: list[Callable[[], Check]] = [
        python_version,
        partial(pinned_packages, root / "requirements.txt"),
        lambda: machine,
        partial(graphics, needs.devices if needs else ()),
        partial(compiler, needed=bool(needs and needs.compiled)),
        partial(git, root),
        partial(dvc, root),
        partial(store, root),
    ]
    if needs:
        checks += [
            partial(disk, root, needs.disk),
            partial(memory, needs.memory, needs.devices),
            partial(judge, needs.judge, needs.evaluation, root),
            *(partial(package_index, wheel) for wheel in needs.wheels),
            *(partial(address, url) for url in needs.addresses),
            *(partial(own_files, source, root) for source in needs.sources),
        ]
        if needs.packages:
            checks.append(partial(installed, needs.packages))
        if needs.checkpoint:
            checks.append(partial(checkpoint, root / needs.checkpoint))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [done.result() for done in [pool.submit(check) for check in checks]]


def python_version() -> Check:
    """Not older than the project allows."""
    found, oldest = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, OLDEST_PYTHON))
    return Check(
        "Python",
        sys.version_info >= OLDEST_PYTHON,
        found,
        f"Install {oldest} or newer, and name it: make PYTHON=python{oldest} run",
    )


def pinned_packages(requirements: Path) -> Check:
    """Every package in the version that ``requirements`` pins."""
    if not requirements.is_file():
        return Check(
            "packages", False, f"no {requirements}", "Run this in the repository", needed=False
        )
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip().partition("==") for line in lines if "==" in line]
    wrong = [
        f"{name} {found or 'missing'}, pinned {wanted}"
        for name, _, wanted in pins
        if (found := _version(name)) != wanted
    ]
    shown = "; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
    return Check(
        "packages",
        not wrong,
        f"{len(wrong)} of {len(pins)} differ: {shown}" if wrong else f"{len(pins)} as pinned",
        f"python -m pip install -r {requirements}",
    )


def processor(seconds: float = 0.2) -> Check:
    """What it computes with, and who else does: watched for so long, alone."""
    import torch

    since = core_seconds()
    time.sleep(seconds)
    busy, held = busy_elsewhere(since), held_to()
    facts = [
        f"{usable_cores()} core(s)",
        ", ".join(instruction_sets()) or platform.machine(),
        *([f"held to {held}"] if held else []),
        f"native {', '.join(native_formats())}",
        f"{torch.get_num_threads()} thread(s)",
        f"load {load():.1f}",
        *([f"others keep {busy:.1f} core(s) busy, which slows down all"] if busy >= BUSY else []),
    ]
    return Check("processor", True, "; ".join(facts))


def graphics(devices: Sequence[DeviceParams]) -> Check:
    """A GPU, if there is one; a profile may insist on it."""
    import torch

    try:
        for params in devices:
            choose_runtime(params)
    except UserError as error:
        return Check("GPU", False, "none that the profile names", str(error))
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("GPU", True, f"{name}, {_size(free)} of {_size(total)} free")
    if torch.backends.mps.is_available():
        return Check("GPU", True, "Metal (mps), shares the memory")
    return Check("GPU", False, "none: the processor computes", needed=False)


def compiler(needed: bool) -> Check:
    """What `compile: true` calls."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    remedy = "Install a C++ compiler, or set compile: false. Without one nothing is compiled"
    return Check("C++ compiler", bool(found), found or "none", remedy, needed)


def git(root: Path) -> Check:
    """A repository with a commit: `dvc exp run` starts from one."""
    found = repository.examine(root)
    return Check("git", not found.problem, found.problem or f"at {found.commit}", found.remedy)


def dvc(root: Path) -> Check:
    """The command, a repository for it, and the ``python`` that its stages will find."""
    if not shutil.which("dvc"):
        return Check(
            "dvc", False, "not on the path", "Activate the environment: . .venv/bin/activate"
        )
    if not (root / ".dvc").is_dir():
        return Check("dvc", False, f"{root.resolve()} is no DVC repository", "dvc init")
    python = shutil.which("python")
    prefix = _output(python, "-c", "import sys; print(sys.prefix)") if python else ""
    if prefix != sys.prefix:
        found = f"its stages would run {python or 'no python at all'}"
        return Check("dvc", False, found, "Activate the environment: . .venv/bin/activate")
    return Check("dvc", True, _version("dvc") or "installed elsewhere")


def store(root: Path) -> Check:
    """MLflow's store takes what the stages tell it; without it they run untold."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store(root.resolve())
    own = uri == own_store(root.resolve())
    shown = STORE if own else "MLFLOW_TRACKING_URI"
    remedy = "Tracking is off meanwhile. Fix it, or unset MLFLOW_TRACKING_URI"
    try:
        if own and not (root / STORE).exists():
            if not os.access(root, os.W_OK):
                raise PermissionError(f"{root} is not writable")
        elif uri != "off":
            probe(uri, root.resolve())
    except (OSError, sqlite3.Error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return Check("MLflow", False, f"{shown}: {reason}", remedy, needed=False)
    return Check("MLflow", True, "switched off" if uri == "off" else f"{shown} can be written")


def disk(root: Path, needed: float) -> Check:
    """Free space for what a run adds."""
    free = shutil.disk_usage(root).free
    finding = f"{_size(free)} free, about {_size(needed)} needed"
    return Check("disk", free >= needed, finding, "Make room: dvc gc --workspace, for example")


def memory(needed: float, devices: Sequence[DeviceParams]) -> Check:
    """Free memory, of the GPU if there is one, for the largest stage."""
    import psutil
    import torch

    free = psutil.virtual_memory().available
    try:
        if any(choose_runtime(params).device.type == "cuda" for params in devices):
            free = torch.cuda.mem_get_info()[0]
    except UserError as error:
        return Check("memory", False, f"about {_size(needed)} needed", str(error))
    remedy = "Set micro_batch_size or activation_checkpointing, or take a smaller model"
    finding = f"{_size(free)} free, about {_size(needed)} needed"
    return Check("memory", free >= needed, finding, remedy)


def judge(params: JudgeParams, evaluation: LlamaEvalParams, root: Path) -> Check:
    """A judge's server and its model; or the file of one that runs in this process."""
    if isinstance(params, LlamaCppParams):
        if isinstance(params.model, FileModel):
            path = root / params.model.file
            remedy = "Put it there, or correct judge.model.file"
            return Check("judge", path.is_file(), f"{path}", remedy)
        return Check("judge", True, f"llama.cpp in this process, {params.model.wheel}")
    try:
        found = open_judge(params, root, evaluation)
    except (UserError, ImportError) as error:
        return Check("judge", False, f"{params.backend}: {params.model}", str(error))
    return Check("judge", True, f"{params.backend}: {params.model}, {found.digest[:12]}")


def package_index(wheel: str) -> Check:
    """The index that pip is configured with has the wheel."""
    name, _, wanted = wheel.partition("==")
    listed = _output(
        *(sys.executable, "-m", "pip", "index", "versions", name),
        *("--no-input", "--disable-pip-version-check", "--retries=0"),
        f"--timeout={NETWORK_SECONDS}",
    )
    remedy = "Check the network and: python -m pip config list"
    if not listed:
        return Check("package index", False, f"does not give {name}", remedy)
    there = wanted in listed.replace(",", " ").split()
    finding = f"has {wheel}" if there else f"has {name}, but not {wanted}"
    return Check("package index", there, finding, remedy)


def address(url: str) -> Check:
    """Something answers there that it has the file."""
    import requests

    name = "download"
    remedy = "Check the network, the address in the parameters, and HF_ENDPOINT"
    try:
        shown = http_client.redacted(url)
        answer = requests.head(
            url, timeout=NETWORK_SECONDS, allow_redirects=True, proxies=http_client.proxies(url)
        )
    except requests.RequestException as error:
        return Check(name, False, f"{shown}: {type(error).__name__}", remedy)
    except ValueError as error:
        return Check(name, False, f"no address ({error})", remedy)
    except UserError as error:
        return Check(name, False, shown, str(error))
    finding = f"{shown}: status {answer.status_code}"
    return Check(name, answer.status_code < 400 or answer.status_code == 405, finding, remedy)


def own_files(source: FileCorpus | FileInstructions, root: Path) -> Check:
    """The user's own files are there; they are not read yet."""
    try:
        local_files.load_rows(source, root)
    except UserError as error:
        return Check("own files", False, source.path, str(error))
    return Check("own files", True, source.path)


def installed(packages: Sequence[str]) -> Check:
    """Distributions that the profile names, whatever their version."""
    missing = [name for name in packages if not _version(name)]
    finding = f"missing: {', '.join(missing)}" if missing else f"{', '.join(packages)} installed"
    return Check("sources", not missing, finding, f"python -m pip install {' '.join(missing)}")


def checkpoint(directory: Path) -> Check:
    """A model directory that the profile starts from."""
    there = (directory / "config.json").is_file() and (directory / "model.safetensors").is_file()
    remedy = "Correct gpt2_weights.path: config.json and model.safetensors must lie there"
    return Check("checkpoint", there, str(directory), remedy)


def _version(name: str) -> str:
    """Of an installed distribution, without what a build adds (``+cpu``); empty: there is none."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    """What a program prints; empty if it fails, is missing or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding=sys.getfilesystemencoding(),  # paths come back as Python has them
            errors="surrogateescape",
            check=True,
            timeout=PROGRAM_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _size(n: float) -> str:
    return in_words(n / 2**20)
