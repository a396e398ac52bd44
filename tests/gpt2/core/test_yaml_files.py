import math
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import ParseError, dumps_yaml, parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.core.errors import UserError
from gpt2.core.params import Params
from gpt2.core.yaml_files import ambiguities, dump_yaml, load, load_yaml, read_yaml

SCALARS = {
    "5e-05": 5e-05,
    "1e-7": 1e-07,
    "1e5": 1e5,
    "5.0e-05": 5e-05,
    ".5": 0.5,
    "1.": 1.0,
    "-.inf": -math.inf,
    "1_000": 1000,
    "0o17": 15,
    "017": 17,
    "08": 8,
    "0x1F": 31,
    "on": "on",
    "yes": "yes",
    "N": "N",
    "True": True,
    "1:30": "1:30",
    "~": None,
    "": None,
    "null": None,
    "'5e-05'": "5e-05",
    "nan": "nan",
    "1e1_0": "1e1_0",
    "607a30d": "607a30d",
}
PIECES = [*"0123456789", "_", ":", ".", "-", "+", "e", "E", "0x", "0o", "0b", "yes", "on", "~", " "]


class Section(Params):
    lr: float


def read(tmp_path: Path, scalar: str) -> object:
    path = tmp_path / "params.yaml"
    path.write_text(f"train:\n  lr: {scalar}\n", encoding="utf-8")
    return load_yaml(path)["train"]["lr"]


def notes(tmp_path: Path, text: str, *sections: str) -> list[str]:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return [note.removeprefix(f"{path}: ") for note in ambiguities(read_yaml(path), sections)]


@pytest.mark.parametrize("scalar", [*SCALARS, "2026-01-01", "2026-01-01 10:00:00"])
def test_scalars_are_read_as_dvc_reads_them(tmp_path: Path, scalar: str) -> None:
    value = read(tmp_path, scalar)
    by_dvc = parse_yaml(f"lr: {scalar}", "params.yaml")["lr"]
    assert (type(value), value) == (type(by_dvc), by_dvc)
    if scalar in SCALARS:
        assert (type(value), value) == (type(SCALARS[scalar]), SCALARS[scalar])


def test_any_scalar_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join))
    def check(scalar: str) -> None:
        try:
            by_dvc = parse_yaml(f"train:\n  lr: {scalar}\n", "params.yaml")["train"]["lr"]
        except (ParseError, ValueError):  # 0x_
            with pytest.raises(UserError):
                read(tmp_path, scalar)
        else:
            value = read(tmp_path, scalar)
            assert (type(value), repr(value)) == (type(by_dvc), repr(by_dvc))

    check()


def test_what_dvc_writes_is_read_back(tmp_path: Path) -> None:
    values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    words = st.sampled_from(["on", "1_000", "5e-05", "1:30", "017", "~", "2026-01-01", "=", "a: b"])

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(values | texts | words)
    def check(value: object) -> None:
        path = tmp_path / "params.yaml"
        path.write_text(dumps_yaml({"train": {"lr": value}}), encoding="utf-8")
        assert load_yaml(path) == {"train": {"lr": value}}

    check()


def test_files_are_written_as_dvc_writes_them(tmp_path: Path) -> None:
    values = {"train": {"lr": 5e-05, "on": "yes", "text": "5e-05", "list": [None, {"a": "1:30"}]}}
    assert dump_yaml(values) == dumps_yaml(values)
    (tmp_path / "params.yaml").write_text(dump_yaml(values), encoding="utf-8")
    assert load_yaml(tmp_path / "params.yaml") == values


@pytest.mark.parametrize("setting", ["0.00005", "5.0e-05", "1e-7", "5e-5", "1"])
def test_a_learning_rate_that_dvc_sets(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train:\n  lr: 0.5\n", encoding="utf-8")
    apply_overrides(path, [f"train.lr={setting}"])  # as `dvc exp run --set-param`
    assert load(Section, path, "train").lr == float(setting)
    assert notes(tmp_path, path.read_text(encoding="utf-8"), "train") == []


@pytest.mark.parametrize(
    ("scalar", "note"),
    [
        ("yes", 'yes is read as "yes", but in YAML 1.1 it is true. Write the one that you mean'),
        ("Off", 'Off is read as "Off", but in YAML 1.1 it is false. Write the one that you mean'),
        ("n", 'n is read as "n", but in YAML 1.1 it is false. Write the one that you mean'),
        ("1:30", '1:30 is read as "1:30", but in YAML 1.1 it is 90. Write the one that you mean'),
        ("-1:30.5", '-1:30.5 is read as "-1:30.5", but in YAML 1.1 it is -90.5. Write the one'),
        ("017", "017 is read as 17, but in YAML 1.1 it is 15. Write the one that you mean"),
        ("08", '08 is read as 8, but in YAML 1.1 it is "08". Write the one that you mean'),
        ("1_000", "1_000 is read as 1000, but YAML 1.2 has no _ in numbers. Write 1000"),
        ("1_0.5", "1_0.5 is read as 10.5, but YAML 1.2 has no _ in numbers. Write 10.5"),
        ("3_0e-3", "3_0e-3 is read as 0.03, but YAML 1.2 has no _ in numbers. Write 0.03"),
        ("0x_ff", "0x_ff is read as 255, but YAML 1.2 has no _ in numbers. Write 255"),
    ],
)
def test_scalars_that_differ_in_yaml_1_1_are_noted(tmp_path: Path, scalar: str, note: str) -> None:
    text = f"a: {{x: [1, {{y: {scalar}}}]}}\nb: {scalar}\n"
    (found,) = notes(tmp_path, text, "a", "c")
    assert found.startswith(f"a.x.1.y: {note}")


@pytest.mark.parametrize(
    "scalar",
    [
        "'yes'",
        '"1:30"',
        "5e-05",
        "1e5",
        "0o17",
        "0",
        "10",
        "-0.5",
        "true",
        "~",
        "1.2.3",
        "a_b",
        "e_5",
        "1_a",
    ],
)
def test_unambiguous_scalars_are_not_noted(tmp_path: Path, scalar: str) -> None:
    assert notes(tmp_path, f"a: {scalar}", "a") == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"- a", "expected a mapping"),
        (b"other: {}", "section 'train' is missing"),
        (b"train:", "Input should be"),
        (b"x: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"train: {lr: 1,\n  lr: 2}", 'not valid YAML (line 2: found duplicate key "lr"'),
        (b"train: {1: 2}", "the key 1 is not a string. Put it in quotes"),
        (b"~: 2", "the key None is not a string. Put it in quotes"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        load(Section, path, "train")
    assert expected in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        load(Section, tmp_path / "nowhere.yaml", "train")


@pytest.mark.parametrize(
    "text",
    [
        "when: 2026-13-45",
        "%YAML 1.3\n---\na: 1",
        "n: -_",
        "ok: !!bool maybe",
        "when: !!timestamp never",
        "n: 0x_",
        f"n: {5000 * '9'}",
        5000 * "[",
    ],
)
def test_invalid_values_are_an_error_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML"):
        load_yaml(path)


def test_aliases_are_expanded_but_not_to_millions_of_values(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {lr: 1}\nb: {<<: *a}\nc: *a\n")
    assert load_yaml(path) == {name: {"lr": 1} for name in "abc"}
    for bomb in ("[{}]", "{{<<: [{}]}}"):
        lines = [f"a{n}: &a{n} {bomb.format(', '.join(10 * [f'*a{n - 1}']))}" for n in range(1, 9)]
        path.write_text("\n".join(["a0: &a0 {x: y}", *lines]))
        with pytest.raises(UserError, match=r"params\.yaml: more than 100,000 values"):
            load_yaml(path)
