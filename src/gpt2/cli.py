"""The command ``gpt2``: use a trained model. Each command parses, calls one function and prints.

torch takes seconds to import, so what needs it is imported inside the commands.
"""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from gpt2.errors import UserError

if TYPE_CHECKING:
    from gpt2.generation import SamplingParams, TextModel

Command = TypeVar("Command", bound=Callable[..., None])


class _Group(click.Group):
    """A `UserError` becomes one message and exit status 1; Ctrl-C ends with 130, as in a shell."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(err=True)
            sys.exit(130)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="""\b
Examples:
  gpt2 generate --model data/models/pretrained --prompt "def numpy."
  gpt2 chat --model data/models/finetuned
  gpt2 export --model data/models/finetuned --to gguf --output model.gguf

The tab key completes commands and options after this (also for zsh and fish):

  eval "$(_GPT2_COMPLETE=bash_source gpt2)"
""",
)
@click.version_option(package_name="gpt2-from-scratch")
def main() -> None:
    """Use a GPT-2: a model of the pipeline, or any Hugging Face GPT-2 directory."""


def _model_directory(ctx: click.Context, option: click.Parameter, directory: Path) -> Path:
    wanted = ("config.json", "model.safetensors")
    missing = [name for name in wanted if not (directory / name).is_file()]
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
    """The options of `SamplingParams` and of `DeviceParams`."""
    for option in reversed(
        (
            click.option(
                "--max-new-tokens",
                type=click.IntRange(min=1),
                default=100,
                help="Most tokens to add; the model may end sooner.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(min=0),
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
                "--seed",
                type=click.IntRange(min=0),
                default=123,
                help="The same seed gives the same text.",
            ),
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
) -> "tuple[TextModel, SamplingParams]":
    """What `generation_options` and `model_option` ask for.

    Raises:
        UserError: an option is wrong, or the directory is damaged or not that of a GPT-2.
    """
    from gpt2 import weights
    from gpt2.device import DeviceParams, choose_runtime
    from gpt2.generation import SamplingParams, TextModel
    from gpt2.params import parse
    from gpt2.tokenizer import Tokenizer

    params = parse(SamplingParams, sampling, "options")
    runtime = choose_runtime(parse(DeviceParams, {"device": device, "dtype": dtype}, "options"))
    tokenizer = Tokenizer.load(model_dir)
    model = weights.load(model_dir, foreign=True)
    if tokenizer.n_vocab > model.config.vocab_size:
        raise UserError(
            f"{model_dir}: the tokenizer has {tokenizer.n_vocab:,} tokens, the model only "
            f"{model.config.vocab_size:,}. Use the tokenizer that the model was trained with"
        )
    return TextModel(model.to(runtime.device), tokenizer, runtime), params


@main.command(
    epilog="""\b
Examples:
  gpt2 generate --model data/models/pretrained --prompt "def numpy.linalg."
  gpt2 generate --model gpt2-medium --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
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
    text = _standard_input() if prompt == "-" else prompt
    model, sampling = load(**options)
    for piece in model.continuation(text, sampling):
        click.echo(piece, nl=False)
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
    empty line or /exit ends.
    """
    from gpt2.instructions import prompt

    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # some builds of Python lack it
            import readline  # noqa: F401  lets `input` edit a line and recall earlier ones
    model, sampling = load(**options)
    for instruction in _lines("> " if interactive else ""):
        try:
            for piece in model.continuation(prompt(instruction, ""), sampling):
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            pass
        except UserError as error:  # too long an instruction
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
    from gpt2 import export, files, weights

    export.export_gguf(model_dir, output, quantization)
    click.echo(f"wrote {output} ({output.stat().st_size / 1e6:,.1f} MB)", err=True)
    if modelfile:
        path = output.with_name("Modelfile")
        text = export.modelfile(
            output.name,
            context_length=weights.read_config(model_dir / "config.json").context_length,
            alpaca=export.follows_alpaca(model_dir),
        )
        files.write_text(path, text)
        command = shlex.join(["ollama", "create", output.stem, "-f", str(path)])
        click.echo(f"wrote {path}. Now: {command}", err=True)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 at byte {error.start}") from error


def _lines(marker: str) -> Iterator[str]:
    """The lines that are typed or piped, up to the end, an empty one or ``/exit``."""
    while True:
        try:
            line = input(marker).strip()
        except EOFError:
            if marker:
                click.echo()
            return
        except UnicodeDecodeError as error:
            raise UserError("standard input: not UTF-8") from error
        if line in ("", "/exit"):
            return
        yield line


if __name__ == "__main__":
    main()
