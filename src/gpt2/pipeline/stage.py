"""The frame of a stage: lock, tracking, log messages, signals, and errors without a traceback."""

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
from gpt2.core.streams import file_name_errors, standard_streams
from gpt2.tracking.context import flatten
from gpt2.tracking.tracker import Tracker, track

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
"""Modules of the stages in the order of the pipeline. Metric files have the same names."""
WITH_RESULTS = STAGES[1:-1]
"""The seven stages with metrics: all but the links to own files and the report."""
HIGHLIGHTS = {
    "download": "corpus.source",
    "tokenize": "tokenizer.vocab_size",
    "pretrain": "pretrain.lr",
    "download-gpt2-weights": "gpt2_weights.size",
    "finetune": "finetune.lr",
    "generate-responses": "generate_responses.temperature",
    "llama3-eval": "judge.backend",
}
"""The most important parameter of each stage, shown in the names of its MLflow runs."""
EXAMPLES = """\b
Examples:
  dvc repro {0}          # run it if one of its dependencies has changed
  dvc repro -s -f {0}    # run only this stage, even if nothing has changed
"""
"""Epilog of a stage's help. {0} is its name in dvc.yaml, which has the full command."""
NO_WEIGHTS = Path("none")
"""The file for ``pretrain.initial_weights: none``; a DVC dependency has to exist."""
RUNS = Path("data", "runs")
SPEED = RUNS / "speed"
"""In the working directory, like the metrics; an experiment may run in a copy of the repository."""
METRICS = Path("metrics")
STOP_STATUSES = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a stage that was stopped by a signal."""


@dataclass(frozen=True)
class Run:
    """A running stage: its parameters, its tracker, and where it writes."""

    stage: str
    params_path: Path
    settings: Mapping[str, Any]
    """The content of the parameter file."""
    root: Path
    """The repository. With `dvc exp run --temp`, the working directory is a copy of it."""
    tracker: Tracker
    started: float
    """Start time by `time.monotonic`."""

    @property
    def runs(self) -> Path:
        """Directory of work in progress that must survive a crash; not a DVC output."""
        return self.root / RUNS

    def load(self, schema: TypeForm[Section], section: str) -> Section:
        """One section of the parameter file, validated against ``schema``."""
        return yaml_files.parse_section(schema, self.settings, self.params_path, section)

    def metrics(self, values: Mapping[str, Any], speed: Mapping[str, float] | None = None) -> None:
        """Write the results to ``metrics/<stage>.json`` and log all numbers. Call this last.

        ``speed`` and the stage's ``wall_seconds`` go to ``data/runs/speed/`` instead: they differ
        from run to run, and equal inputs must give an equal ``dvc.lock``.
        """
        name = f"{_module(self.stage)}.json"
        speed = {**(speed or {}), "wall_seconds": round(time.monotonic() - self.started, 1)}
        write_json(METRICS / name, values)
        write_json(SPEED / name, speed)
        self.tracker.metrics(_numbers({**values, **speed}))
        self.tracker.artifact(METRICS / name)


def as_program(stage: click.Command) -> NoReturn:
    """Run a stage as the main program, as DVC starts it.

    After Ctrl-C or SIGTERM the process exits without finalizing the interpreter. Native threads
    may still be running (the tokenizer's trainer ignores signals) and could crash during it.
    """
    with standard_streams(needed=False):
        try:
            stage()
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code not in STOP_STATUSES:
                raise
            status = end.code
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def running(stage: str, params_path: Path, sections: Sequence[str]) -> Iterator[Run]:
    """The frame of a stage with parameters and tracking.

    Args:
        stage: its name in dvc.yaml.
        params_path: the parameter file.
        sections: sections that the stage uses; they must exist and are logged as its parameters.
    """
    started = time.monotonic()
    with framed(stage) as root:
        file = yaml_files.read_yaml(params_path)
        settings = file.values
        for section in sections:
            yaml_files.parse_section(dict[str, Any], settings, params_path, section)
        for note in yaml_files.ambiguities(file, sections):
            log.warning(note)
        with track(stage, root, settings, sections, HIGHLIGHTS.get(stage)) as tracker:
            yield Run(stage, params_path, settings, root, tracker, started)
            tracker.restored(_results_before(stage))


@contextmanager
def framed(stage: str) -> Iterator[Path]:
    """The frame of any stage, with or without parameters; yields the root of the repository.

    A `UserError` or a failure to write is printed as one message, with exit status 1. Ctrl-C and
    SIGTERM give exit status 130 and 143.
    """
    started = time.monotonic()
    with _log_to_stdout(), _signals_as_exit():
        try:
            # The lock is in the working directory, not in the root: experiments in temporary
            # copies of the repository may run at the same time.
            with (
                file_name_errors(),
                writing(Path.cwd()),
                locked(RUNS / f"{stage}.lock", wait=False),
            ):
                click.echo(f"{stage}: started")
                yield Path(os.environ.get("DVC_ROOT", ".")).resolve()
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        click.echo(f"{stage}: done in {time.monotonic() - started:.1f} s")


def _results_before(stage: str) -> dict[str, dict[str, float]]:
    """Results of the earlier stages, which DVC may have restored without running them.

    Metric files of later stages may still be from an earlier run.
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


class _LevelFormatter(logging.Formatter):
    """The plain message, with the level as a prefix from WARNING on."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno > logging.INFO else text


@contextmanager
def _log_to_stdout() -> Iterator[None]:
    """Print log messages: of this project from INFO on, of libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LevelFormatter())
    for name in ("gpt2", "stages", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into SystemExit, so that `finally` blocks run.

    Ignored signals stay ignored: a shell starts the background jobs of a script without Ctrl-C.
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
