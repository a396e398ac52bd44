"""A model directory, of the pipeline or of others, as something that reads and writes text."""

from pathlib import Path

from gpt2 import weights
from gpt2.device import DeviceParams, choose_runtime
from gpt2.errors import UserError
from gpt2.generation import TextModel
from gpt2.tokenizer import Tokenizer


def load(directory: Path, params: DeviceParams) -> TextModel:
    """The model of a Hugging Face GPT-2 directory, on its device.

    Raises:
        UserError: the directory is damaged or not that of a GPT-2, or the device is not there.
    """
    runtime = choose_runtime(params)
    tokenizer = Tokenizer.load(directory)
    model = weights.load(directory, foreign=True)
    if tokenizer.n_vocab > model.config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.n_vocab:,} tokens, the model only "
            f"{model.config.vocab_size:,}. Use the tokenizer that the model was trained with"
        )
    return TextModel(model.to(runtime.device), tokenizer, runtime)
