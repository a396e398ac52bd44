import torch

from gpt2.core.device import Runtime
from gpt2.data.instructions import prompt
from gpt2.data.records import InstructionRecord
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.finetuning import SampleAnswers, metrics
from gpt2.training.history import History

CPU = Runtime(torch.device("cpu"), torch.float32)


def test_samples_are_the_first_validation_records_that_leave_room_for_an_answer():
    records = [
        InstructionRecord("Learn.", "", "Yes.", "kind", "train", "a"),
        InstructionRecord("Say this. " * 50, "", "Too long.", "kind", "validation", "b"),
        InstructionRecord("Say one.", "", "One.", "kind", "validation", "c"),
        InstructionRecord("Say two.", "of them", "Two.", "kind", "validation", "d"),
        InstructionRecord("Say three.", "", "Three.", "kind", "validation", "e"),
    ]
    tokenizer = train_bpe([prompt("Say one.", "")] * 2, 300)
    shape = GPT2Config(vocab_size=300, context_length=128, n_layer=1, n_head=1, n_embd=8)
    samples = SampleAnswers(records, 2, tokenizer, context_length=128)
    sampling = SamplingParams(max_new_tokens=3, temperature=0.0)
    text = samples.text(GPT2(shape), sampling, CPU)
    first, second = text.split("\n\n---\n\n")
    assert first.startswith(prompt("Say one.", ""))
    assert first.endswith("\n(expected: One.)")
    assert second.startswith(prompt("Say two.", "of them"))
    assert second.endswith("\n(expected: Two.)\n")


def test_metrics_are_those_of_the_best_evaluation():
    losses = [3.0, 1.0, 2.0]
    history = History(
        evaluations=[{"step": 5 * i, "val_loss": loss} for i, loss in enumerate(losses)], tokens=7
    )
    assert metrics(history, records=10, too_long=2, dropped=1) == {
        "val_loss": 1.0,
        "val_loss_before": 3.0,
        "best_step": 5,
        "train_records": 10,
        "records_too_long": 2,
        "records_left_out": 1,
        "train_tokens": 7,
    }
