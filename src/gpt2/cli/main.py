"""The command ``gpt2``: its group of commands, and how errors and signals end it.

Commands parse, call and print. They import torch inside their functions, as it takes seconds.
"""

import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from gpt2.cli.models import export, import_, package, serve
from gpt2.cli.pipeline import doctor, validate
from gpt2.cli.text import chat, generate
from gpt2.core.errors import UserError
from gpt2.core.streams import file_name_errors, standard_streams


class _Group(click.Group):
    """Ends a `UserError` with one message and exit status 1, a signal with 128 + its number."""

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
  0    success
  1    failure; the message says why and what to do
  2    wrong usage
  130  interrupted by Ctrl-C
  141  nothing reads standard output any more
  143  terminated by SIGTERM

To complete commands and options with the tab key (zsh and fish work the same way):

  eval "$(_GPT2_COMPLETE=bash_source gpt2)"
""",
)
@click.version_option(package_name="gpt2-from-scratch")
def main() -> None:
    """Use GPT-2 models, and check the pipeline that trains them.

    Models come from the pipeline or from Hugging Face. validate and doctor run in the pipeline's
    repository, all other commands anywhere.
    """


for command in (generate, chat, export, import_, package, serve, validate, doctor):
    main.add_command(command)


if __name__ == "__main__":
    main()
