"""A whole parameter file, checked at once: all problems are reported, with their keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2.core.errors import UserError
from gpt2.core.yaml_files import load_yaml
from gpt2.pipeline import schemas
from scripts.deps import ROOT
from tests import yaml12

Values = dict[str, Any]


@pytest.fixture
def values() -> Values:
    return load_yaml(ROOT / "profiles" / "smoke.yaml")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Values], Path]:
    def write(values: Values) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(yaml12.dumps(values))
        return path

    return write


def problems(path: Path) -> list[str]:
    with pytest.raises(UserError) as error:
        schemas.read(path)
    heading, *lines = str(error.value).split("\n  ")
    assert heading == f"{path}: {len(lines)} problem(s)"
    return lines


def test_a_good_file_gives_its_sections(values: Values, written: Callable[[Values], Path]) -> None:
    sections = schemas.read(written(values))
    assert sections.profile == "smoke"
    assert sections.pretrain.steps == values["pretrain"]["steps"]
    assert list(sections._fields) == list(schemas.SCHEMAS) == list(values)


def test_all_problems_are_reported_at_once(
    values: Values, written: Callable[[Values], Path]
) -> None:
    del values["judge"]
    values["finetun"] = {}
    values["pretrain"]["lr"] = "1e-3"
    values["pretrain"]["model"]["n_head"] = 3
    values["corpus"]["source"] = "sourdough"
    values["finetune"]["base_model"] = "data/models/gpt2"
    values["llama3_eval"]["n_controls"] = 7
    found = problems(written(values))
    expected = (
        "section 'judge' is missing",
        "section 'finetun' is unknown",
        "corpus: Input tag 'sourdough'",
        "pretrain.lr: Input should be a valid number",
        "pretrain.model: Value error, n_embd=32 is not a multiple of n_head=3",
        "finetune.base_model: data/models/gpt2, but gpt2_weights.size is none",
        "llama3_eval.n_controls: 7 of 6 n_items",
    )
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("instructions.test_fraction", 0.0, "instructions.test_fraction: 0 leaves no record"),
        ("instructions.validation_fraction", 0.0, "instructions.validation_fraction: 0 leaves"),
        ("finetune.base_model", "data/models/mine", "finetune.base_model: no stage writes"),
        ("pretrain.warmup_steps", 30, "pretrain.warmup_steps: 30 of 30 steps"),
        ("pretrain.decay_steps", 26, "pretrain.decay_steps: 26, with 5 of warmup more than the 30"),
        ("pretrain.initial_weights", "data/models/gpt", "pretrain.initial_weights: Input should"),
        ("tokenizer", {"kind": "model"}, "tokenizer.kind: model, but pretrain.initial_weights is"),
        ("pretrain.prompts", ["", "a"], "pretrain.prompts.0: must not be empty"),
        ("pretrain.prompts", ["word " * 128], "pretrain.prompts.0: must not be empty, and shorter"),
        (
            "pretrain.model.context_length",
            16,
            "pretrain.model.context_length: 16, but the",
        ),
        ("llama3_eval.max_tokens", 2048, "llama3_eval.max_tokens: 2048 leaves no room"),
        ("corpus", {"source": "file", "path": "data/raw/corpus"}, "corpus.path: data/raw/corpus: "),
        ("judge.model", {"file": "./data/../data/raw/judge/a.gguf"}, "judge.model.file: ./data"),
        ("gpt2_weights.path", "data/models/gpt2", "gpt2_weights.path: data/models/gpt2: the "),
    ],
)
def test_sections_that_contradict_each_other(
    values: Values, written: Callable[[Values], Path], key: str, value: object, message: str
) -> None:
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[last] = value
    if last == "path":
        place |= {"size": "any", "source": "directory"}
    (found,) = problems(written(values))
    assert found.startswith(message)


def test_initial_weights_that_contradict_other_sections(
    values: Values, written: Callable[[Values], Path]
) -> None:
    values["pretrain"]["initial_weights"] = "data/models/gpt2"
    no_model, vocabulary = problems(written(values))
    assert no_model.startswith("pretrain.initial_weights: data/models/gpt2, but gpt2_weights.size")
    assert vocabulary.startswith("tokenizer.kind: bpe, but pretrain.initial_weights is data/models")

    values["gpt2_weights"]["size"] = "355M"
    values["tokenizer"] = {"kind": "gpt2"}
    [shape] = problems(written(values))
    right = {"context_length": 1024, "n_layer": 24, "n_head": 16, "n_embd": 1024, "dropout": 0.0}
    line = ", ".join(f"{key}: {value}" for key, value in right.items())
    assert shape == (
        "pretrain.model: not the shape of pretrain.initial_weights. "
        f"Write {{{line}}}; context_length may be less"
    )
    for kind in ("gpt2", "model"):
        values["tokenizer"] = {"kind": kind}
        for length in (1024, 128):
            values["pretrain"]["model"] = {**right, "context_length": length, "dropout": 0.3}
            schemas.read(written(values))
    values["pretrain"]["model"] = {**right, "context_length": 1025}
    assert len(problems(written(values))) == 1


def test_files_that_are_not_parameter_files(tmp_path: Path) -> None:
    for content in (None, b"- a list\n", b"\xff", b"a: [\n"):
        path = tmp_path / "params.yaml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"params\.yaml: "):
            schemas.read(path)
