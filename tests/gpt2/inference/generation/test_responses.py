"""Responses to records: long prompts, stop strings and the repetition penalty."""

from pathlib import Path

import pytest
import torch

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt
from gpt2.data.records import InstructionRecord
from gpt2.inference.generation.responses import answer
from gpt2.inference.generation.sampling import SamplingParams
from tests.our_model import write_our_model


def record(index: int) -> InstructionRecord:
    return InstructionRecord(
        instruction="Describe.",
        input=f"def package.do_thing_{index}()",
        output=f"Do thing {index}.",
        kind="describe",
        split="test",
        name=f"package.do_thing_{index}",
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    text = prompt("Describe.", "def package.do_thing()")
    return write_our_model(place, text, context_length=64, seed=1)


def answers(model_dir: Path, records: list[InstructionRecord], **sampling: object) -> list[str]:
    runtime = Runtime(torch.device("cpu"), torch.float32)
    params = SamplingParams(max_new_tokens=20, **sampling)
    return answer(model_dir, records, params, runtime, batch_size=2, name="model")


def test_a_record_longer_than_the_context_is_answered_by_its_end_or_refused(model_dir, caplog):
    long = record(1)._replace(input="def package.do_thing() " * 50)
    longer = long._replace(input="something else " + long.input)
    [first, second, other] = answers(model_dir, [long, longer, record(2)])
    assert first == second
    assert all((first, other))
    assert "(2 of 3 are too long): only its end is read" in caplog.text
    with pytest.raises(UserError, match=r"prompt 1 has .* the model's context 64"):
        answers(model_dir, [record(2), long], strict=True)


def test_an_answer_ends_with_a_stop_string(model_dir):
    [whole] = answers(model_dir, [record(1)])
    stop = whole[2:4]
    [cut] = answers(model_dir, [record(1)], stop=["never there", stop])
    assert whole.startswith(cut)
    assert stop in cut
    assert len(cut) < len(whole)
    [varied] = answers(model_dir, [record(1)], repetition_penalty=2.0)
    assert varied != whole
