"""The judge's tasks: both models on one sample, both controls on a part of it."""

from collections import Counter, defaultdict

import pytest

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.params import LlamaEvalParams
from gpt2.evaluation.judge.tasks import Response, load_tasks, make_tasks

RESPONSES = [
    Response(
        id=id,
        kind=kind,
        instruction=f"Instruction {id}.",
        input="",
        reference=f"reference {id}",
        finetuned=f"finetuned {id}",
        base=f"base {id}",
    )
    for id, kind in enumerate(["a", "b"] * 20)
]
PARAMS = LlamaEvalParams(n_items=10, n_controls=4)


def test_models_share_a_sample_and_controls_are_part_of_it():
    tasks = make_tasks(RESPONSES, PARAMS)
    ids = defaultdict(list)
    for task in tasks:
        ids[task.variant].append(task.id)
    assert Counter(task.variant for task in tasks) == {
        "finetuned": 10,
        "base": 10,
        "reference": 4,
        "shuffled": 4,
    }
    assert ids["finetuned"] == ids["base"]
    assert ids["reference"] == ids["shuffled"]
    assert set(ids["reference"]) < set(ids["finetuned"])
    assert Counter(task.kind for task in tasks if task.variant == "base") == {"a": 5, "b": 5}


def test_each_variant_has_its_own_answer():
    for task in make_tasks(RESPONSES, PARAMS):
        answer = task.prompt.split("Student's answer:\n")[1].split("\n")[1]
        assert f"Instruction {task.id}." in task.prompt
        if task.variant == "shuffled":
            assert answer.startswith("reference ")
            assert answer != f"reference {task.id}"
        else:
            assert answer == f"{task.variant} {task.id}"


def test_tasks_are_the_same_from_run_to_run_and_differ_by_seed():
    assert make_tasks(RESPONSES, PARAMS) == make_tasks(RESPONSES[::-1], PARAMS)
    other = LlamaEvalParams(n_items=10, n_controls=4, seed=7)
    assert make_tasks(RESPONSES, PARAMS) != make_tasks(RESPONSES, other)


def test_tasks_are_loaded_from_the_responses_of_the_stage_before(tmp_path):
    lines = "".join(response.model_dump_json() + "\n" for response in RESPONSES)
    with files.new_directory(tmp_path / "responses") as new:
        files.write_text(new / "responses.jsonl", lines)
    assert load_tasks(tmp_path / "responses", PARAMS) == make_tasks(RESPONSES, PARAMS)
    same = RESPONSES[0].model_dump_json() + "\n"
    for text, message in ((same * 3, "all references are the same text"), ("", "it is empty")):
        with files.new_directory(tmp_path / "responses") as new:
            files.write_text(new / "responses.jsonl", text)
        with pytest.raises(UserError, match=message):
            load_tasks(tmp_path / "responses", PARAMS)
