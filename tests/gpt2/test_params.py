from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from gpt2.errors import UserError
from gpt2.params import Fraction, Params, Positive, load, load_yaml, parse


class Inner(Params):
    n_layer: Positive


class Outer(Params):
    lr: Annotated[float, Field(gt=0)]
    steps: Positive
    dropout: Fraction = 0.0
    kind: Literal["a", "b"] = "a"
    model: Inner


GOOD = {"lr": 1, "steps": 3, "model": {"n_layer": 2}}


def problems(changes: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        parse(Outer, GOOD | changes, "params.yaml: train")
    return str(caught.value)


def test_good_values_become_an_immutable_section():
    params = parse(Outer, GOOD, "x")
    assert (params.lr, params.model.n_layer, params.kind) == (1.0, 2, "a")
    with pytest.raises(ValueError, match="frozen"):
        params.steps = 4


def test_all_problems_are_reported_at_once_with_the_path_of_the_key():
    message = problems({"lrr": 1, "steps": "3", "dropout": 1.0, "kind": "c", "model": {}})
    assert message.startswith("5 problems:\n")
    assert "params.yaml: train.lrr: unknown key" in message
    assert "params.yaml: train.steps: Input should be a valid integer (found '3', str)" in message
    assert "params.yaml: train.dropout: Input should be less than 1 (found 1.0, float)" in message
    assert "params.yaml: train.kind: Input should be 'a' or 'b' (found 'c', str)" in message
    assert "params.yaml: train.model.n_layer: missing" in message


@pytest.mark.parametrize(
    ("written", "advice"), [("6e-4", "6.0e-4"), ("1e5", "1.0e+5"), ("1.5e3", "1.5e+3")]
)
def test_a_number_that_yaml_reads_as_text_gets_a_hint_that_works(written, advice):
    assert isinstance(yaml.safe_load(written), str)
    assert problems({"lr": written}).endswith(f"YAML reads {written} as text: write {advice}")
    assert yaml.safe_load(advice) == float(written)


@pytest.mark.parametrize("value", [True, 1.5, None, [1], float("inf")])
def test_types_are_not_converted(value):
    assert "train.steps" in problems({"steps": value})


def test_not_a_number_is_refused():
    assert "finite" in problems({"lr": float("nan")})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"- a", "expected a mapping"),
        (b"other: {}", "section 'train' is missing"),
        (b"train:", "Input should be"),
        (b"x: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        load(Outer, path, "train")
    assert expected in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        load(Outer, tmp_path / "nowhere.yaml", "train")


@pytest.mark.parametrize(
    "text",
    [
        "when: 2026-13-45",
        "ok: !!bool maybe",
        "when: !!timestamp never",
        "n: 0x_",
        f"n: {5000 * '9'}",
        5000 * "[",
    ],
)
def test_values_that_yaml_cannot_read_are_an_error_of_the_file(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML"):
        load_yaml(path)


def test_aliases_are_read_but_not_when_they_stand_for_millions(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {lr: 1}\nb: {<<: *a}\nc: *a\n")
    assert load_yaml(path) == {name: {"lr": 1} for name in "abc"}
    lines = [f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 9)]
    path.write_text("\n".join(["a0: &a0 [x]", *lines]))
    with pytest.raises(UserError, match=r"params\.yaml: more than 100,000 values"):
        load_yaml(path)


def test_a_password_in_an_address_is_not_told():
    with pytest.raises(UserError) as caught:
        parse(Outer, GOOD | {"kind": "http://me:hunter2@host/"}, "params.yaml")
    assert "http://***@host/" in str(caught.value)
    assert "hunter2" not in str(caught.value)
