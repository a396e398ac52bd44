"""From the responses of two models to the questions put to the judge, controls included."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import ConfigDict

from gpt2.core.params import Params
from gpt2.evaluation.judge.controls import shuffled_references, stratified_sample
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import Item, build_prompt

Variant = Literal["finetuned", "base", "reference", "shuffled"]
"""Whose answer is judged: a model's, or one of the two controls'."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)


class Response(Params):
    """A test record with the answers of both models; a line of ``responses.jsonl``."""

    model_config = ConfigDict(extra="ignore")

    id: int
    kind: str
    instruction: str
    input: str
    reference: str
    finetuned: str
    base: str


@dataclass(frozen=True)
class Task:
    """One question to the judge."""

    id: int
    kind: str
    variant: Variant
    prompt: str


def make_tasks(responses: Sequence[Response], params: LlamaEvalParams) -> list[Task]:
    """Both models' answers to a sample of the records, and both controls of a part of this sample.

    Raises:
        ValueError: all references are the same text, so there is no wrong answer to shuffle in.
    """
    sample = stratified_sample(responses, params.n_items, params.seed)
    control = stratified_sample(sample, params.n_controls, params.seed)
    shuffled = shuffled_references(control, responses, params.seed)
    answers: list[tuple[Response, Variant, str]] = []
    for response in sample:
        answers += [(response, "finetuned", response.finetuned), (response, "base", response.base)]
    for response in control:
        answers += [
            (response, "reference", response.reference),
            (response, "shuffled", shuffled[response.id]),
        ]
    return [_task(response, variant, answer, params.seed) for response, variant, answer in answers]


def _task(response: Response, variant: Variant, answer: str, seed: int) -> Task:
    item = Item(response.instruction, response.input, response.reference, answer)
    return Task(response.id, response.kind, variant, build_prompt(item, seed))
