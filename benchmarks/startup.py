"""What stands between a command and its work: imports, parameters, tracking.

The stages are those of a finished run of the smoke profile, with their commands of ``dvc.lock``.
One begins its first useful work when its model looks up a first token; or, if it runs no model,
when it opens the first file below ``data/`` that is not its lock. There its process ends. Against
it stands ``import torch``, also from the start of a process to the end of the import; and ``dvc
repro`` with nothing to do against ``dvc status`` in an empty repository, both to the end.
"""

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, Sample, Timing, child, record, take_turns
from gpt2.core.yaml_files import load_yaml

if TYPE_CHECKING:
    from tests.pipeline import Pipeline, Repository

WITH_MODEL = {"pretrain", "finetune", "generate-responses", "gpt2 generate"}
GENERATE = "gpt2.cli.main generate --model data/models/pretrained --prompt def --max-new-tokens 1"
GOAL = 1.5
"""Most seconds more than the other side."""
IMPORT = "import torch, time; print([time.time(), time.process_time()])"


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="One round.")
@click.option("--until", type=(str, float, click.Path(path_type=Path)), hidden=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(
    rounds: int, quick: bool, until: tuple[str, float, Path] | None, command: Sequence[str]
) -> None:
    """Time how all stages and `gpt2 generate` start, and `dvc repro` with nothing to do."""
    if until:
        begin(*until, *command)
    from tests.pipeline import Pipeline, Repository

    with tempfile.TemporaryDirectory() as directory:
        whole, empty = Path(directory, "whole"), Path(directory, "empty")
        whole.mkdir()
        empty.mkdir()
        pipeline, nothing = Pipeline(whole), Repository(empty)
        nothing.start()
        pipeline.call("dvc", "repro")
        rounds = 1 if quick else rounds
        rows = [*starts(pipeline, rounds), repro(pipeline, nothing, rounds)]
        record("startup", rows, quick=quick)


def starts(pipeline: "Pipeline", rounds: int) -> Iterator[Row]:
    """A row for each stage, and one for the command that generates."""
    lock = load_yaml(pipeline.directory / "dvc.lock")
    commands = {name: stage["cmd"] for name, stage in lock["stages"].items()}
    commands["gpt2 generate"] = f"python -m {GENERATE}"
    sides: dict[str, Callable[[], Sample]] = {"import torch": _import_torch}
    for name, command in commands.items():
        sides[name] = partial(_start, name, pipeline.directory, shlex.split(command)[2:])
    timings = take_turns(sides, rounds)
    torch = timings.pop("import torch")
    for name, timing in timings.items():
        goal = f", goal at most {GOAL}" if name in WITH_MODEL else ""
        what = "looks up its first token" if name in WITH_MODEL else "opens its first file"
        yield Row(
            f"start of {name}, until it {what}",
            1,
            "starts",
            {name: timing, "import torch": torch},
            figures=_more(timing, torch, f"seconds more than import torch{goal}"),
        )


def repro(pipeline: "Pipeline", empty: "Repository", rounds: int) -> Row:
    """The row of ``dvc repro``."""
    done, nothing = pipeline.call("dvc", "repro"), empty.call("dvc", "status")
    if "up to date" not in done or "no data or pipelines" not in nothing:
        raise SystemExit(f"something to do in one of the repositories:\n{done}{nothing}")
    timings = take_turns(
        {
            "dvc repro": lambda: whole_process(lambda: pipeline.call("dvc", "repro")),
            "dvc status": lambda: whole_process(lambda: empty.call("dvc", "status")),
        },
        rounds,
    )
    return Row(
        "dvc repro with nothing to do, against dvc status in an empty repository",
        1,
        "runs",
        timings,
        checks=["dvc repro finds all stages up to date, dvc status finds none"],
        figures=_more(
            timings["dvc repro"],
            timings["dvc status"],
            f"seconds more than dvc status, goal at most {GOAL}",
        ),
    )


def whole_process(call: Callable[[], object]) -> Sample:
    """What a process that ``call`` starts takes, until it has ended."""

    def processor() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    clock, before = time.perf_counter(), processor()
    call()
    return Sample(time.perf_counter() - clock, processor() - before)


def begin(name: str, started: float, directory: Path, module: str, *arguments: str) -> NoReturn:
    """Run a command in ``directory`` up to its first useful work, and print its `Sample`."""

    def begun(*arguments: object) -> NoReturn:
        print(json.dumps([time.time() - started, time.process_time()]), flush=True)
        os._exit(0)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path = Path(arguments[0]).absolute()
            if path.is_relative_to(data) and not path.is_relative_to(data / "runs"):
                begun()

    os.chdir(directory)
    data = Path("data").absolute()
    command = import_module(module).main
    if name in WITH_MODEL:
        from torch.nn import functional

        functional.embedding = begun  # type: ignore[assignment]  # whatever its arguments
    else:
        sys.addaudithook(watch)
    command(arguments, standalone_mode=False)
    raise SystemExit(f"{name} ended before it began")


def _start(name: str, directory: Path, words: Sequence[str]) -> Sample:
    from tests.pipeline import ENVIRONMENT

    until = ["--until", name, repr(time.time()), str(directory)]
    # Empty, so that a store of the user's is left alone: the stage makes its own.
    environment = {**ENVIRONMENT, "MLFLOW_TRACKING_URI": ""}
    return Sample(*child("benchmarks.startup", *until, "--", *words, environment=environment))


def _import_torch() -> Sample:
    started = time.time()
    done = subprocess.run([sys.executable, "-c", IMPORT], stdout=subprocess.PIPE, check=True)
    ended, processor = json.loads(done.stdout)
    return Sample(ended - started, processor)


def _more(ours: Timing, other: Timing, name: str) -> dict[str, float]:
    return {
        name: statistics.median(ours.clock) - statistics.median(other.clock),
        f"processor {name}": statistics.median(ours.processor) - statistics.median(other.processor),
    }


if __name__ == "__main__":
    main()
