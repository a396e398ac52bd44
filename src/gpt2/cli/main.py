"""The command ``gpt2``: look before a run, use a model after it. Commands parse, call and print.

torch takes seconds to import, so what needs it is imported inside the commands.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click

from gpt2.core.errors import UserError
from gpt2.core.streams import file_name_errors, standard_streams

if TYPE_CHECKING:
    from gpt2.core.device import DeviceParams
    from gpt2.inference.text_model import ContinuationParams, TextModel
    from gpt2.pipeline.plan import Estimate

Command = TypeVar("Command", bound=Callable[..., None])


class _Group(click.Group):
    """A `UserError` becomes one message and exit status 1; signals end as in a shell, tidily."""

    def main(self, *args: Any, **options: Any) -> Any:
        with standard_streams(needed=True):
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        def stop(number: int, frame: FrameType | None) -> NoReturn:
            sys.exit(128 + number)

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            with file_name_errors():
                return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(err=True)
            sys.exit(130)
        finally:
            signal.signal(signal.SIGTERM, previous)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="""\b
Examples:
  gpt2 doctor
  gpt2 validate
  gpt2 chat --model data/models/finetuned
  gpt2 export --model data/models/finetuned --to gguf --output model.gguf

\b
Exit status:
  0    done
  1    it could not be done; the message says why and what to do
  2    wrong usage
  130  stopped by Ctrl-C
  141  nobody reads the output any longer
  143  stopped by SIGTERM

The tab key completes commands and options after this (also for zsh and fish):

  eval "$(_GPT2_COMPLETE=bash_source gpt2)"
""",
)
@click.version_option(package_name="gpt2-from-scratch")
def main() -> None:
    """Check a machine and a profile; use a GPT-2 of the pipeline, or any of Hugging Face."""


def _model_directory(ctx: click.Context, option: click.Parameter, directory: Path) -> Path:
    wanted = {"config.json": (), "model.safetensors": ("model.safetensors.index.json",)}
    missing = [
        name
        for name, others in wanted.items()
        if not any((directory / one).is_file() for one in (name, *others))
    ]
    if missing:
        raise UserError(
            f"{directory}: no {' and no '.join(missing)}, so this is not the directory of a "
            "Hugging Face GPT-2. Name one with --model, or make data/models: dvc repro"
        )
    return directory


model_option = click.option(
    "--model",
    "model_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    callback=_model_directory,
    help="Directory with config.json, model.safetensors and the tokenizer.",
)


def generation_options(command: Command) -> Command:
    """The options of `ContinuationParams` and of `DeviceParams`."""
    command = device_options(command)
    for option in reversed(
        (
            click.option(
                "--max-new-tokens",
                type=click.IntRange(min=1),
                default=100,
                help="Most tokens to add; the model may end sooner. Beyond its context it sees the "
                "last tokens only, and each takes as long as reading all of them.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(1e-6, 1e6),
                default=1.0,
                help="Above 1: tokens that stand in the text already become less likely.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 1e6),
                default=0.0,
                help="0: always the likeliest token; 1: as the model says.",
            ),
            click.option(
                "--top-k", type=click.IntRange(min=1), help="Choose among the k likeliest tokens."
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                default=1.0,
                help="Choose among the fewest likeliest tokens that have this probability.",
            ),
            click.option(
                "--min-p",
                type=click.FloatRange(0, 1),
                default=0.0,
                help="Choose among the tokens with this share of the likeliest one's probability.",
            ),
            click.option(
                "--stop",
                multiple=True,
                callback=lambda ctx, option, texts: [_typed(text, "--stop") for text in texts],
                help="End with the token that completes this text; for several, repeat it.",
            ),
            click.option(
                "--num-return-sequences",
                type=click.IntRange(1, 1024),
                default=1,
                help="Texts to draw, printed with a line --- between them.",
            ),
            click.option(
                "--strict",
                is_flag=True,
                help="Refuse a prompt longer than the model's context, instead of keeping its end.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                default=123,
                help="The same seed gives the same text.",
            ),
        )
    ):
        command = option(command)
    return command


def device_options(command: Command) -> Command:
    """The options of `DeviceParams`."""
    for option in reversed(
        (
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda", "mps"]),
                default="auto",
                help="Where to compute; auto: cuda, else mps, else cpu.",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                help="Format of the matrix products; auto: bfloat16 where it is native.",
            ),
        )
    ):
        command = option(command)
    return command


def load(
    model_dir: Path, device: str, dtype: str, **sampling: Any
) -> "tuple[TextModel, ContinuationParams]":
    """What `generation_options` and `model_option` ask for.

    Raises:
        UserError: an option is wrong, or the directory is damaged or not that of a GPT-2.
    """
    from gpt2.core.params import parse
    from gpt2.inference import text_model

    params = parse(text_model.ContinuationParams, sampling, "options")
    return text_model.load(model_dir, device_params(device, dtype)), params


def device_params(device: str, dtype: str) -> "DeviceParams":
    """What `device_options` ask for."""
    from gpt2.core.device import DeviceParams
    from gpt2.core.params import parse

    return parse(DeviceParams, {"device": device, "dtype": dtype}, "options")


@main.command(
    epilog="""\b
Examples:
  gpt2 generate --model data/models/pretrained --prompt "def numpy.linalg."
  gpt2 generate --model gpt2-medium --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
  gpt2 generate --model data/models/pretrained --prompt "class " --stop "." --min-p 0.1 \\
    --temperature 1 --num-return-sequences 3
  gpt2 generate --model data/models/pretrained --prompt - < start.txt > continuation.txt
"""
)
@model_option
@click.option(
    "--prompt",
    required=True,
    help="Text to continue; - reads it from standard input, as it is. Empty: a new document.",
)
@generation_options
def generate(prompt: str, **options: Any) -> None:
    """Continue a text. Only the continuation goes to standard output."""
    text = _standard_input() if prompt == "-" else _typed(prompt, "--prompt")
    model, params = load(**options)
    _print_continuations(model, text, params)
    if sys.stdout.isatty():
        click.echo()


@main.command(
    epilog="""\b
Examples:
  gpt2 chat --model data/models/finetuned
  gpt2 chat --model data/models/finetuned --temperature 0.7 --top-k 40 --seed 1
  gpt2 chat --model data/models/finetuned < instructions.txt > answers.txt
"""
)
@model_option
@generation_options
def chat(**options: Any) -> None:
    """Follow instructions, typed one a line.

    Each is answered by itself: the model remembers no other. Ctrl-C stops an answer; Ctrl-D, an
    empty line or /exit ends. In a file or pipe, empty lines are passed over.
    """
    from gpt2.data.instructions import prompt

    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # some builds of Python lack it
            import readline  # noqa: F401  lets `input` edit a line and recall earlier ones
    model, params = load(**options)
    for instruction in _lines("> " if interactive else ""):
        try:
            _print_continuations(model, prompt(instruction, ""), params)
        except KeyboardInterrupt:
            pass
        except UserError as error:  # too long an instruction for --strict
            if not interactive:
                raise
            click.echo(f"error: {error}", err=True)
        click.echo()


@main.command(
    epilog="""\b
Examples:
  gpt2 export --model data/models/finetuned --to gguf --output export/model.gguf
  gpt2 export --model gpt2-xl --to gguf --output gpt2-xl.gguf --quantization q8_0
"""
)
@model_option
@click.option("--to", type=click.Choice(["gguf"]), required=True, expose_value=False)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option(
    "--quantization",
    type=click.Choice(["f16", "q8_0", "f32"]),
    default="f16",
    help="Format of the matrices; q8_0 is half as large as f16.",
)
@click.option(
    "--modelfile/--no-modelfile",
    default=True,
    help="Write a Modelfile, for Ollama, beside the output.",
)
def export(
    model_dir: Path,
    output: Path,
    quantization: Literal["f16", "q8_0", "f32"],
    modelfile: bool,
) -> None:
    """Write a model as a file for llama.cpp and Ollama."""
    from gpt2.core import files
    from gpt2.inference import export
    from gpt2.model.config_file import read_config

    stop = export.export_gguf(model_dir, output, quantization)
    click.echo(f"wrote {output} ({output.stat().st_size / 1e6:,.1f} MB)", err=True)
    if modelfile:
        path = output.with_name("Modelfile")
        text = export.modelfile(
            output.name,
            context_length=read_config(model_dir / "config.json").context_length,
            alpaca=export.follows_alpaca(model_dir),
            stop=stop,
        )
        files.write_text(path, text)
        command = shlex.join(["ollama", "create", output.stem, "-f", str(path)])
        click.echo(f"wrote {path}. Now: {command}", err=True)


@main.command(
    name="import",
    epilog="""\b
Examples:
  gpt2 import --output models/nanogpt nanoGPT/out/ckpt.pt
  gpt2 import --output models/llmc llm.c/gpt2_124M_bf16.bin
  gpt2 import --output models/own --tokenizer data/tokenizer ckpt.pt
""",
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Model directory to write; it must not be there yet.",
)
@click.option(
    "--tokenizer",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory with the tokenizer of the model; without it, GPT-2's is fetched.",
)
@click.option(
    "--gelu",
    type=click.Choice(["exact", "tanh"]),
    default="exact",
    help="What nanoGPT's model.py computed: exact if it has nn.GELU(), tanh if it has new_gelu.",
)
def import_(
    checkpoint: Path, output: Path, tokenizer: Path | None, gelu: Literal["exact", "tanh"]
) -> None:
    """Make a model directory of a checkpoint of nanoGPT or llm.c, and prove it.

    The logits of the new directory are compared with those computed from the file's own tensors,
    without our model. Nothing that the file may hold is run.
    """
    from gpt2.inference.importing import directory

    proof = directory.import_checkpoint(
        *(checkpoint, output, tokenizer),
        gelu="none" if gelu == "exact" else "tanh",
        cache=Path(".cache", "wheels"),
    )
    click.echo(
        f"wrote {output}: {proof.program}, {proof.parameters:,} parameters\n"
        f"its logits after {proof.n_tokens} tokens are those of the file's own tensors, up to "
        f"{proof.difference:.1e} of the largest\n"
        f"{directory.PROMPT}{proof.continuation}",
        err=True,
    )


@main.command(
    epilog="""\b
Examples:
  gpt2 package --model data/models/finetuned --output export/mlflow
  mlflow models serve -m export/mlflow --env-manager local
"""
)
@model_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to write; it must not be there yet.",
)
@device_options
def package(model_dir: Path, output: Path, device: str, dtype: str) -> None:
    """Write a model as an MLflow model, for `mlflow models serve`."""
    from gpt2.inference import serving

    serving.package(model_dir, output, device_params(device, dtype))
    command = shlex.join(["mlflow", "models", "serve", "-m", str(output), "--env-manager", "local"])
    click.echo(f"wrote {output}. Now: {command}", err=True)


@main.command(
    epilog="""\b
Examples:
  gpt2 serve --model data/models/finetuned
  gpt2 serve --model gpt2-medium --port 9000 --device cpu

\b
Ask it (instruction and input in place of prompt are put as in finetuning):
  curl http://127.0.0.1:8000/invocations -H "Content-Type: application/json" -d \\
    '{"dataframe_records": [{"prompt": "def numpy."}], "params": {"max_new_tokens": 20}}'
"""
)
@model_option
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen at. Beyond this machine nothing guards the model.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0: any that is free.")
@device_options
def serve(model_dir: Path, host: str, port: int, device: str, dtype: str) -> None:
    """Answer over HTTP, as `mlflow models serve` does, until Ctrl-C.

    POST /invocations takes records with a prompt, or with an instruction and perhaps an input, and
    the options of gpt2 generate as params (max_new_tokens, temperature, stop: a list, ...). GET
    /ping says that it is there.
    """
    from gpt2.inference import serving

    serving.serve(
        *(model_dir, host, port, device_params(device, dtype)),
        lambda address: click.echo(f"{model_dir} answers at {address}/invocations"),
    )


def _parameter_file(name: str) -> Path:
    """The file ``name``, or that of the profile of this name."""
    profile = Path("profiles", f"{name}.yaml")
    return profile if profile.is_file() and not Path(name).is_file() else Path(name)


def _parameter_files(
    ctx: click.Context, option: click.Parameter, names: Sequence[str]
) -> Sequence[Path]:
    return [_parameter_file(name) for name in names or ["params.yaml"]]


@main.command(
    epilog="""\b
Examples:
  gpt2 validate
  gpt2 validate gpt2-124m
  gpt2 validate --brief
  gpt2 validate --no-estimates profiles/*.yaml
"""
)
@click.argument("files", nargs=-1, metavar="[FILE or PROFILE]...", callback=_parameter_files)
@click.option(
    "--estimates/--no-estimates", default=True, help="Print what each stage is going to take."
)
@click.option("--brief", is_flag=True, help="Print only what all stages take together.")
def validate(files: Sequence[Path], estimates: bool, brief: bool) -> None:
    """Check params.yaml, or other files, and estimate what a run takes.

    All that is wrong in a file is told at once, before anything runs. The estimates, for each stage
    parameters of the model, tokens, peak memory and time, are rough, and say what they rest on:
    this machine is measured for a second or two. Times are for a machine that does nothing else.
    """
    from gpt2.pipeline import doctor, schemas
    from gpt2.pipeline.plan import Plan

    problems = []
    for path in files:
        try:
            sections = schemas.read(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if brief:
            total = _total(list(Plan(path, sections).estimates()))
            click.echo(f"all stages of {sections.profile}, if none is up to date: {total}")
            continue
        click.echo(f"{path}: valid, profile {sections.profile}")
        if estimates:
            rows = list(Plan(path, sections).estimates())
            click.echo(f"processor: {doctor.processor().finding}")
            click.echo(f"{_estimates(rows)}\nwhole run: {_total(rows)}\n")
    if problems:
        raise UserError("\n".join(problems))


@main.command(
    epilog="""\b
Examples:
  gpt2 doctor
  gpt2 doctor --params gpt2-124m
"""
)
@click.option(
    "--params",
    "path",
    default="params.yaml",
    callback=lambda ctx, option, name: _parameter_file(name),
    help="File or profile that says what is needed.",
)
def doctor(path: Path) -> None:
    """Check this machine: what works, what to do about the rest.

    "absent" is what the profile does without. Ends with 1 if something that it needs does not work.
    """
    from gpt2.pipeline import doctor, schemas
    from gpt2.pipeline.plan import Plan

    needs, error = None, ""
    try:
        needs = Plan(path, schemas.read(path), timed=False).needs()
    except UserError as problem:
        error = str(problem)
    checks = doctor.examine(Path(), needs)
    checks.append(
        doctor.Check("parameters", needs is not None, str(path), f"Correct them: {error}")
    )
    click.echo(_table([(check.name, check.verdict, check.finding) for check in checks]))
    bad = [check for check in checks if not check.works and check.remedy]
    if bad:
        click.echo("\nWhat to do:")
    for check in sorted(bad, key=lambda check: not check.needed):
        click.echo(f"- {check.name} ({check.verdict}): {check.remedy}")
    if any(check.needed for check in bad):
        sys.exit(1)


def _estimates(rows: "Sequence[Estimate]") -> str:
    from gpt2.report.formats import compact, duration, memory

    heading = ("stage", "parameters", "tokens", "memory", "time", "based on")
    cells = [
        (
            row.stage,
            compact(row.parameters),
            compact(row.tokens),
            memory(row.memory and row.memory / 2**20),
            duration(row.seconds),
            row.basis,
        )
        for row in rows
    ]
    return _table([heading, *cells])


def _total(rows: "Sequence[Estimate]") -> str:
    from gpt2.report.formats import duration

    total = sum(row.seconds or 0 for row in rows)
    left_out = [row.stage for row in rows if row.seconds is None]
    without = f", without {', '.join(left_out)}" if left_out else ""
    return f"about {duration(total)}{without}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _print_continuations(model: "TextModel", text: str, params: "ContinuationParams") -> None:
    """As they come if it is one, else when all are there."""
    if params.num_return_sequences == 1:
        for piece in model.continuation(text, params):
            click.echo(piece, nl=False)
    else:
        click.echo("\n---\n".join(model.continuations(text, params)), nl=False)


def _typed(text: str, option: str) -> str:
    """An option's text: under a locale without UTF-8 its bytes come escaped."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{option}: not UTF-8") from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 at byte {error.start}") from error


def _lines(marker: str) -> Iterator[str]:
    """The lines that are typed or piped, up to the end or ``/exit``. An empty one ends what is
    typed and is passed over in what is piped."""
    while True:
        try:
            line = input(marker).strip()
        except EOFError:
            if marker:
                click.echo()
            return
        except UnicodeDecodeError as error:
            raise UserError("standard input: not UTF-8") from error
        if line == "/exit" or (marker and not line):
            return
        if line:
            yield line


if __name__ == "__main__":
    main()
