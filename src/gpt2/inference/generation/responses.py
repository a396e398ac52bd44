"""A model's responses to instruction records (tutorial part 5)."""

from collections.abc import Sequence
from pathlib import Path

from gpt2.core.device import DeviceParams, Runtime
from gpt2.core.params import Positive
from gpt2.core.progress import Progress
from gpt2.data.instructions import prompt
from gpt2.data.records import InstructionRecord
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights


class GenerateResponsesParams(SamplingParams, DeviceParams):
    """Section ``generate_responses``: how the test records are answered."""

    max_records: Positive | None = None
    """Most test records of each kind to answer; null: all."""
    batch_size: Positive = 32
    """Records answered side by side."""


def answer(
    model_dir: Path,
    records: Sequence[InstructionRecord],
    sampling: SamplingParams,
    runtime: Runtime,
    batch_size: int,
    name: str,
) -> list[str]:
    """The responses of the model in ``model_dir`` to ``records``, stripped of outer white space.

    Args:
        model_dir: a model directory of the pipeline.
        records: their instruction and input make the prompt.
        sampling: how tokens are sampled.
        runtime: device and dtype.
        batch_size: records answered side by side.
        name: of the model, for the progress bar.

    Raises:
        UserError: the directory is damaged, or a prompt does not fit (see `generate`).
    """
    model = weights.load(model_dir)
    tokenizer = weights.load_tokenizer(model_dir, model)
    model.to(runtime.device)
    prompts = [tokenizer.encode(prompt(record.instruction, record.input)) for record in records]
    progress = Progress(f"{name} answers", len(prompts), "record")
    responses = generate(
        model,
        prompts,
        sampling,
        tokenizer.end_of_text,
        runtime,
        batch_size,
        progress,
        tokenizer,
    )
    progress.close()
    return [tokenizer.decode(ids).strip() for ids in responses]
