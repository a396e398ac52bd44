"""From the responses of two models to the judge's prompts, including those of the controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ConfigDict, ValidationError

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.evaluation.judge.controls import shuffled_references, stratified_sample
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.protocol import Item, build_prompt

Variant = Literal["finetuned", "base", "reference", "shuffled"]
"""Whose answer is judged: a model's, or a control's (`controls`)."""
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
    """One prompt for the judge."""

    id: int
    kind: str
    variant: Variant
    prompt: str


def load_tasks(responses_dir: Path, params: LlamaEvalParams) -> list[Task]:
    """The tasks for the responses that the stage ``generate-responses`` wrote.

    Raises:
        UserError: the directory is missing or damaged, a response is not valid, or there is no
            wrong answer for a control.
    """
    files.read_manifest(responses_dir)
    path = responses_dir / "responses.jsonl"
    responses = _read_responses(path)
    try:
        return make_tasks(responses, params)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def make_tasks(responses: Sequence[Response], params: LlamaEvalParams) -> list[Task]:
    """Both models' answers to a sample of the records, and both controls for a part of the sample.

    Raises:
        ValueError: all references are the same text, so no other one can serve as a wrong answer.
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


def _read_responses(path: Path) -> list[Response]:
    responses, problems = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            responses.append(Response.model_validate_json(line))
        except ValidationError as error:
            problems += [
                f"  line {number}: {'.'.join(map(str, problem['loc']))} {problem['msg']}"
                for problem in error.errors()
            ]
    if problems or not responses:
        raise UserError(f"{path}: no valid responses\n" + "\n".join(problems or ["  it is empty"]))
    return responses
