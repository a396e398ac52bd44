"""Commands that generate text: ``generate`` and ``chat``."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2.cli.options import device_params, generation_options, model_option, utf8
from gpt2.core.errors import UserError

if TYPE_CHECKING:
    from gpt2.inference.text_model import ContinuationParams, TextModel


@click.command(
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
    help="Text to continue; - reads it from standard input, unchanged. Empty: a new document.",
)
@generation_options
def generate(prompt: str, **options: Any) -> None:
    """Continue a text. Only the continuation is written to standard output."""
    text = _standard_input() if prompt == "-" else utf8(prompt, "--prompt")
    model, params = _load(**options)
    _print_continuations(model, text, params)
    if sys.stdout.isatty():
        click.echo()


@click.command(
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
    """Answer instructions, one per line.

    The model does not remember earlier instructions. Ctrl-C stops an answer; Ctrl-D, an empty line
    or /exit quits. In a file or pipe, empty lines are skipped.
    """
    from gpt2.data.instructions import prompt

    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # some builds of Python lack it
            import readline  # noqa: F401  adds line editing and history to `input`
    model, params = _load(**options)
    for instruction in _instructions("> " if interactive else ""):
        try:
            _print_continuations(model, prompt(instruction, ""), params)
        except KeyboardInterrupt:
            pass
        except UserError as error:  # with --strict: the instruction is too long
            if not interactive:
                raise
            click.echo(f"error: {error}", err=True)
        click.echo()


def _load(
    model_dir: Path, device: str, dtype: str, **sampling: Any
) -> "tuple[TextModel, ContinuationParams]":
    """The model and the sampling parameters that the options ask for.

    Raises:
        UserError: an option is wrong, or the directory is damaged or does not hold a GPT-2.
    """
    from gpt2.core.params import parse
    from gpt2.inference import text_model

    params = parse(text_model.ContinuationParams, sampling, "options")
    return text_model.load(model_dir, device_params(device, dtype)), params


def _print_continuations(model: "TextModel", text: str, params: "ContinuationParams") -> None:
    """Print one continuation piece by piece as it is generated, or several when all are done."""
    if params.num_return_sequences == 1:
        for piece in model.continuation(text, params):
            click.echo(piece, nl=False)
    else:
        click.echo("\n---\n".join(model.continuations(text, params)), nl=False)


def _instructions(marker: str) -> Iterator[str]:
    """Lines from standard input until it ends or a line is ``/exit``.

    With a ``marker``, which a terminal shows before each line, an empty line ends the input, too;
    without one, empty lines are skipped.
    """
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


def _standard_input() -> str:
    """All of standard input, with its line endings."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 at byte {error.start}") from error
