"""A model's answers to instruction records (tutorial part 5)."""

from collections.abc import Sequence
from pathlib import Path

from gpt2.core.device import DeviceParams, choose_runtime
from gpt2.core.params import Positive
from gpt2.core.progress import Progress
from gpt2.data.instructions import prompt
from gpt2.data.records import InstructionRecord
from gpt2.inference.generation import generate
from gpt2.inference.sampling import SamplingParams
from gpt2.model import weights


class GenerateResponsesParams(SamplingParams, DeviceParams):
    """How the test records are answered."""

    max_records: Positive | None = None
    """Test records of each kind that are answered; null: all."""
    batch_size: Positive = 32
    """Records answered side by side."""


def answer(
    model_dir: Path,
    records: Sequence[InstructionRecord],
    params: GenerateResponsesParams,
    name: str,
) -> list[str]:
    """The model's responses: only what is new after the prompt, without space at both ends."""
    model = weights.load(model_dir)
    tokenizer = weights.load_tokenizer(model_dir, model)
    runtime = choose_runtime(params)
    model.to(runtime.device)
    prompts = [tokenizer.encode(prompt(record.instruction, record.input)) for record in records]
    progress = Progress(f"{name} answers", len(prompts), "record")
    responses = generate(
        model,
        prompts,
        params,
        tokenizer.end_of_text,
        runtime,
        params.batch_size,
        progress,
        tokenizer,
    )
    progress.close()
    return [tokenizer.decode(ids).strip() for ids in responses]
