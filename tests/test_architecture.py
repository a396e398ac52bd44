"""The rules of the house, kept by parsing imports: see the table of modules in the design."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.deps import EXCLUDED, EXCLUDED_FROM, ROOT, decisive, imports, is_in
from scripts.house import FLOORS, PAGE, needed_arrows, rooms_imported, with_picture
from scripts.house import STAGES as TOP
from tests import yaml12

GPT2 = ROOT / "src" / "gpt2"
STAGES = ROOT / "stages"
SOURCES = sorted([*GPT2.rglob("*.py"), *STAGES.rglob("*.py")])

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room in rooms}

MOST_LINES = {"src": 350, "stages": 100}
LONGER: dict[tuple[str, str], int] = {}
"""Functions that may have more than 60 lines."""

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = {
    *("torch", "mlflow", "pandas", "matplotlib", "xllamacpp", "transformers"),
    *("datasets", "gguf", "httpx", "ollama", "openai"),
}
LIGHT = (
    *("core/errors", "core/files", "core/params", "core/locks", "core/progress"),
    *("data/tokenizer/added_tokens", "data/tokenizer/files", "data/tokenizer/bpe"),
    "evaluation/text_metrics",
)


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    """``data`` for all of src/gpt2/data/."""
    return file.relative_to(GPT2).with_suffix("").parts[0]


def rooms(file: Path) -> set[str]:
    """The rooms of gpt2 that a file imports from."""
    return {name.split(".")[1] for name in imports(file) if name.startswith("gpt2.")}


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", sorted(GPT2.rglob("*.py")), ids=relative)
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        assert not rooms(file)
        return
    assert room in FLOOR, f"give {room} a floor in {__file__}"
    wrong = {other for other in rooms(file) - {room} if FLOOR.get(other, 9) >= FLOOR[room]}
    assert not wrong, f"{room} (floor {FLOOR[room]}) must not import {wrong}"
    assert "stages" not in packages(file)


def test_the_rooms_import_as_their_floors_allow() -> None:
    folders = {path.name for path in GPT2.iterdir() if (path / "__init__.py").is_file()}
    assert folders == FLOOR.keys()
    for room in folders:
        assert all(FLOOR[other] < FLOOR[room] for other in rooms_imported(room)), room
    assert rooms_imported(TOP) <= folders


def test_the_picture_of_the_rooms_is_true() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_picture(page) == page, "run: python -m scripts.house"


def test_an_arrow_that_follows_from_others_is_not_drawn() -> None:
    imported = {"c": {"a", "b"}, "b": {"a"}, "a": set[str]()}
    assert needed_arrows(imported) == [("c", "b"), ("b", "a")]


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_forbidden_imports(file: Path) -> None:
    forbidden = {"dvc", "scripts", "tests", *PICKLES}
    if file == GPT2 / "inference" / "importing" / "nanogpt.py":
        forbidden.remove("pickle")  # the name of an error, see below
    if file.parent != GPT2 / "tracking" and file != GPT2 / "inference" / "serving.py":
        forbidden.add("mlflow")
    assert not packages(file) & forbidden


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_nothing_is_unpickled_and_no_import_is_relative(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    safe = [
        call.func
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and "weights_only=True" in {ast.unparse(keyword) for keyword in call.keywords}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            assert [name.name for name in node.names] == ["UnpicklingError"]
        if isinstance(node, ast.Import):
            assert not {name.name for name in node.names} & PICKLES
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            assert node in safe, f"line {node.lineno}: torch.load without weights_only=True"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle", f"line {node.lineno}: allow_pickle"


def loaded(modules: set[str], by: list[str]) -> list[str]:
    """Which of ``modules`` are loaded after an import of those in ``by``."""
    code = f"import sys, {', '.join(by)}; print(*sorted({modules!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=GPT2.parent, capture_output=True, text=True, check=True)
    return process.stdout.split()


def test_light_modules_import_nothing_heavy() -> None:
    files = [GPT2 / f"{name}.py" for name in LIGHT]
    for package in (
        *("data/fetching", "data/parsing", "data/sources"),
        *("evaluation/judge", "evaluation/judge/backends", "tracking"),
    ):
        files += (GPT2 / package).glob("*.py")
    names = [".".join(file.relative_to(GPT2.parent).with_suffix("").parts) for file in files]
    assert loaded(HEAVY, by=names) == []


def test_modules_that_write_a_text_import_no_compiler() -> None:
    """PyTorch's takes a second."""
    assert (
        loaded({"torch._dynamo"}, by=["gpt2.inference.generation.loop", "gpt2.inference.serving"])
        == []
    )


def stages_in_dvc_yaml() -> Iterator[tuple[Path, list[str]]]:
    """The file of each stage, and the code among its dependencies."""
    pipeline = yaml12.loads((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        command = re.match(r"python -m stages\.(\w+)", stage["cmd"])
        assert command, f"{name}: cmd must begin with 'python -m stages.<name>'"
        code = [dep for dep in stage["deps"] if dep.startswith(("src/", "stages/"))]
        yield STAGES / f"{command[1]}.py", code


def test_dvc_yaml_names_the_code_that_decides_each_stage() -> None:
    """No file is missing, none is named for nothing, and a folder is named where files of it are
    many."""
    for stage, named in stages_in_dvc_yaml():
        code = decisive(stage)
        missing = [file for file in code if not is_in(Path(file), set(named))]
        assert not missing, f"dvc.yaml: {stage.stem} also runs {missing}"
        idle = [dep for dep in named if not any(is_in(Path(file), {dep}) for file in code)]
        assert not idle, f"dvc.yaml: {stage.stem} does not run {idle}"


def test_what_is_excluded_exists_and_is_no_dependency() -> None:
    named = {dep for _, deps in stages_in_dvc_yaml() for dep in deps}
    assert not named & EXCLUDED.keys()
    for place in (*EXCLUDED, *(place for places in EXCLUDED_FROM.values() for place in places)):
        assert (ROOT / place).exists(), f"scripts/deps.py: {place}"
    for stage, places in EXCLUDED_FROM.items():
        [deps] = [deps for file, deps in stages_in_dvc_yaml() if file.stem == stage]
        assert not set(deps) & places.keys()


@pytest.mark.parametrize("file", [*SOURCES], ids=relative)
def test_files_and_functions_are_short_enough_to_read(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    most = MOST_LINES["stages" if file.parent == STAGES else "src"]
    assert len(text.splitlines()) <= most, f"split {relative(file)} by idea"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            allowed = LONGER.get((relative(file), node.name), 60)
            assert lines <= allowed, f"{node.name} has {lines} lines"
