"""Options that several commands share: the model, text generation, the device.

They repeat the defaults and bounds of `ContinuationParams` and `DeviceParams`, because importing
those classes imports torch; a test compares them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gpt2.core.errors import UserError

if TYPE_CHECKING:
    from gpt2.core.device import DeviceParams

Command = TypeVar("Command", bound=Callable[..., None])

GENERATION_OPTIONS = (
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        default=100,
        help="Maximum number of tokens to generate; the model may end earlier. Beyond its context "
        "length the model sees the last tokens only, and generation is much slower.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(1e-6, 1e6),
        default=1.0,
        help="Above 1: tokens that are already in the text become less likely.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(0, 1e6),
        default=0.0,
        help="Sampling temperature; 0 always takes the most likely token.",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=1),
        help="Sample from the k most likely tokens only.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        help="Sample from the smallest set of most likely tokens with this total probability.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Ignore tokens below this fraction of the most likely token's probability.",
    ),
    click.option(
        "--stop",
        multiple=True,
        callback=lambda ctx, option, texts: [utf8(text, "--stop") for text in texts],
        help="Stop after the token that completes this text. Can be repeated.",
    ),
    click.option(
        "--num-return-sequences",
        type=click.IntRange(1, 1024),
        default=1,
        help="Number of texts to generate, printed with a line --- between them.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Fail if the prompt is longer than the model's context, instead of keeping its end.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=123,
        help="Random seed; the same seed gives the same text.",
    ),
)
DEVICE_OPTIONS = (
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        help="Device to run on; auto takes cuda, else mps, else cpu.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        help="Dtype of matrix products; auto takes bfloat16 where the device supports it natively.",
    ),
)


def model_option(command: Command) -> Command:
    """``--model``: an existing model directory, passed on as ``model_dir``."""
    return click.option(
        "--model",
        "model_dir",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        callback=_model_directory,
        help="Model directory: config.json, model.safetensors and the tokenizer's files.",
    )(command)


def generation_options(command: Command) -> Command:
    """The options of `ContinuationParams` and of `DeviceParams`."""
    command = device_options(command)
    for option in reversed(GENERATION_OPTIONS):
        command = option(command)
    return command


def device_options(command: Command) -> Command:
    """The options of `DeviceParams`."""
    for option in reversed(DEVICE_OPTIONS):
        command = option(command)
    return command


def device_params(device: str, dtype: str) -> "DeviceParams":
    """The values of `device_options` as parameters."""
    from gpt2.core.device import DeviceParams
    from gpt2.core.params import parse

    return parse(DeviceParams, {"device": device, "dtype": dtype}, "options")


def utf8(text: str, option: str) -> str:
    """The text of an option. In a locale without UTF-8 its bytes arrive escaped.

    Raises:
        UserError: the bytes are not UTF-8.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{option}: not UTF-8") from error


def _model_directory(ctx: click.Context, option: click.Parameter, directory: Path) -> Path:
    alternatives = {"config.json": (), "model.safetensors": ("model.safetensors.index.json",)}
    missing = [
        name
        for name, others in alternatives.items()
        if not any((directory / file).is_file() for file in (name, *others))
    ]
    if missing:
        raise UserError(
            f"{directory}: no {' and no '.join(missing)}, so this is not the directory of a "
            "Hugging Face GPT-2. Name one with --model, or train one with: dvc repro"
        )
    return directory
