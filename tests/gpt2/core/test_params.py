from typing import Annotated, Literal

import pytest
from pydantic import Field

from gpt2.core.errors import UserError
from gpt2.core.params import Fraction, Params, Positive, parse


class Inner(Params):
    n_layer: Positive


class Outer(Params):
    lr: Annotated[float, Field(gt=0)]
    steps: Positive
    dropout: Fraction = 0.0
    kind: Literal["a", "b"] = "a"
    name: str = ""
    fast: bool = False
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
    ("changes", "advice"),
    [
        ({"lr": "5e-05"}, "Write it without quotes: 5e-05"),
        ({"lr": ".5e3"}, "Write it without quotes: 500.0"),
        ({"steps": "017"}, "Write it without quotes: 17"),
        ({"name": 607}, "Put it in quotes"),
        ({"fast": "yes"}, "Write true or false"),
    ],
)
def test_a_value_of_the_wrong_type_gets_a_hint(changes, advice):
    assert problems(changes).endswith(f". {advice}")


@pytest.mark.parametrize(
    "changes", [{"lr": "nan"}, {"lr": "fast"}, {"steps": "1.5"}, {"name": None}]
)
def test_no_hint_if_none_would_help(changes):
    assert problems(changes).endswith(")")


@pytest.mark.parametrize("value", [True, 1.5, None, [1], float("inf")])
def test_types_are_not_converted(value):
    assert "train.steps" in problems({"steps": value})


def test_nan_is_rejected():
    assert "finite" in problems({"lr": float("nan")})


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises(UserError) as caught:
        parse(Outer, GOOD | {"kind": "http://me:hunter2@host/"}, "params.yaml")
    assert "http://***@host/" in str(caught.value)
    assert "hunter2" not in str(caught.value)
