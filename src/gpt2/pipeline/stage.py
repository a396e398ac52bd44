"""What all stages share: the lock, the tracker, readable messages, errors without a traceback."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
from typing_extensions import TypeForm

from gpt2.core import yaml_files
from gpt2.core.errors import UserError
from gpt2.core.files import read_json, write_json, writing
from gpt2.core.locks import locked
from gpt2.core.streams import names_of_files, standard_streams
from gpt2.tracking import Tracker, flatten, track

Section = TypeVar("Section")

log = logging.getLogger(__name__)

STAGES = (
    "own_files",
    "download",
    "tokenize",
    "pretrain",
    "download_gpt2_weights",
    "finetune",
    "generate_responses",
    "llama3_eval",
    "report",
)
"""The modules of the stages in the order of the pipeline; their metrics have the same names."""
WITH_RESULTS = STAGES[1:-1]
"""The seven of the pipeline proper: before them stand links, after them a page."""
HIGHLIGHTS = {
    "download": "corpus.source",
    "tokenize": "tokenizer.vocab_size",
    "pretrain": "pretrain.lr",
    "download-gpt2-weights": "gpt2_weights.size",
    "finetune": "finetune.lr",
    "generate-responses": "generate_responses.temperature",
    "llama3-eval": "judge.backend",
}
"""The parameter that matters most to a stage: it stands in the name of its runs."""
EXAMPLES = """\b
Examples:
  dvc repro {0}          # run it if something it depends on has changed
  dvc repro -s -f {0}    # run it alone, in any case
"""
"""The end of a stage's help; {0} is its name in dvc.yaml, which has the whole command."""
NO_WEIGHTS = Path("none")
"""What ``pretrain.initial_weights: none`` names: a file, as a dependency of DVC's has to exist."""
RUNS = Path("data", "runs")
SPEED = RUNS / "speed"
"""Beside the metrics, in the copy of the repository that an experiment may run in."""
METRICS = Path("metrics")
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""The exit status of a stage that a signal has ended."""


@dataclass(frozen=True)
class Run:
    """A stage while it runs."""

    stage: str
    params_path: Path
    settings: Mapping[str, Any]
    """What the parameter file holds."""
    root: Path
    """The repository; under `dvc exp run --temp` the working directory is a copy of it."""
    tracker: Tracker
    started: float
    """By `time.monotonic`."""

    @property
    def runs(self) -> Path:
        """Work in progress that must outlive a crash; not an output of DVC."""
        return self.root / RUNS

    def load(self, schema: TypeForm[Section], section: str) -> Section:
        """One section of the parameter file, checked against ``schema``."""
        return yaml_files.choose(schema, self.settings, self.params_path, section)

    def metrics(self, values: Mapping[str, Any], speed: Mapping[str, float] | None = None) -> None:
        """Write the results to ``metrics/<stage>.json`` and tell the tracker all numbers.

        What differs from run to run, ``speed`` and the stage's ``wall_seconds``, is kept apart, in
        ``data/runs/speed/``: so the same inputs give the same ``dvc.lock``. Call this last.
        """
        name = f"{_module(self.stage)}.json"
        speed = {**(speed or {}), "wall_seconds": round(time.monotonic() - self.started, 1)}
        write_json(METRICS / name, values)
        write_json(SPEED / name, speed)
        self.tracker.metrics(_numbers({**values, **speed}))
        self.tracker.artifact(METRICS / name)


def as_program(stage: click.Command) -> NoReturn:
    """Run a stage as the program that DVC starts.

    After Ctrl-C or SIGTERM it ends without closing the interpreter: threads of native code (the
    tokenizer's trainer looks at no signal) may still be at work, and crash one that closes.
    """
    with standard_streams(needed=False):
        try:
            stage()
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code not in STOPPED:
                raise
            status = end.code
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def running(stage: str, params_path: Path, sections: Sequence[str]) -> Iterator[Run]:
    """The frame of a stage that tells MLflow what it does.

    ``sections`` are those of its parameters, for the tracker.
    """
    started = time.monotonic()
    with framed(stage) as root:
        settings = yaml_files.load_yaml(params_path)
        for section in sections:
            yaml_files.choose(dict[str, Any], settings, params_path, section)
        for note in yaml_files.disputed(params_path, sections):
            log.warning(note)
        with track(stage, root, settings, sections, HIGHLIGHTS.get(stage)) as tracker:
            yield Run(stage, params_path, settings, root, tracker, started)
            tracker.restored(_results_before(stage))


@contextmanager
def framed(stage: str) -> Iterator[Path]:
    """The frame of any stage; gives the repository's root.

    A `UserError`, or what the operating system refuses to write, becomes one message and exit
    status 1; Ctrl-C and SIGTERM give 130 and 143.
    """
    started = time.monotonic()
    with _messages(), _stoppable():
        try:
            # The working directory, not the root, is what two runs of a stage would both write to:
            # experiments in temporary copies may run side by side.
            with names_of_files(), writing(Path.cwd()), locked(RUNS / f"{stage}.lock", wait=False):
                click.echo(f"{stage}: started")
                yield Path(os.environ.get("DVC_ROOT", ".")).resolve()
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        click.echo(f"{stage}: done in {time.monotonic() - started:.1f} s")


def _results_before(stage: str) -> dict[str, dict[str, float]]:
    """The results of the stages before this one, which DVC may have restored without running them.

    Those after it are of an earlier run, until their turn comes.
    """
    results: dict[str, dict[str, float]] = {}
    module = _module(stage)
    for before in STAGES[: STAGES.index(module)] if module in STAGES else ():
        with suppress(UserError):
            results[before.replace("_", "-")] = _numbers(read_json(METRICS / f"{before}.json"))
    return results


def _module(stage: str) -> str:
    return stage.replace("-", "_")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in flatten(values).items()
        if isinstance(value, int | float)
    }


class _Words(logging.Formatter):
    """A message as it is; from warnings upwards the level leads it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno > logging.INFO else text


@contextmanager
def _messages() -> Iterator[None]:
    """Show log messages on standard output: ours from INFO upwards, of libraries from WARNING."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Words())
    for name in ("gpt2", "stages", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into SystemExit, so that `finally` blocks run.

    What is ignored stays so: a shell script starts its background jobs without Ctrl-C.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: old for number, old in handlers.items() if old != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
