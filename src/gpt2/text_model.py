"""A model directory, of the pipeline or of others, as something that reads and writes text."""

from pathlib import Path

from gpt2 import weights
from gpt2.device import DeviceParams, choose_runtime
from gpt2.generation import TextModel


def load(directory: Path, params: DeviceParams) -> TextModel:
    """The model of a Hugging Face GPT-2 directory, on its device.

    Raises:
        UserError: the directory is damaged or not that of a GPT-2, or the device is not there.
    """
    runtime = choose_runtime(params)
    model = weights.load(directory, foreign=True)
    tokenizer = weights.load_tokenizer(directory, model)
    return TextModel(model.to(runtime.device), tokenizer, runtime)
