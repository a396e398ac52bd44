"""The rules of the house, kept by parsing imports: see the table of modules in the design."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.deps import ROOT, dependencies, imports
from tests import yaml12

GPT2 = ROOT / "src" / "gpt2"
STAGES = ROOT / "stages"
SOURCES = sorted([*GPT2.rglob("*.py"), *STAGES.rglob("*.py")])

# From the bottom up. A module imports only from lower levels; the modules of a package are one.
LEVELS = (
    {"errors"},
    {
        *("files", "params", "batch", "locks", "progress", "interrupts", "outliers", "processor"),
        *("repository", "streams", "web"),
    },
    {"yaml_files", "device", "attention", "added_tokens"},
    {"tracking", "tokenizer_files", "model"},
    {"sources", "tokenizer", "config_file", "optim", "loss", "text_metrics", "flops"},
    {"shards", "instructions", "sampling", "stopping"},
    {"weights", "generation", "checkpoint", "judge", "pace", "invocations"},
    {"trainer", "export", "report", "text_model"},
    {"estimate", "doctor", "serving", "importing"},
    {"cli"},
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = {
    *("torch", "mlflow", "pandas", "matplotlib", "xllamacpp", "transformers"),
    *("datasets", "gguf", "httpx", "ollama", "openai"),
}
LIGHT = (
    "errors",
    "files",
    "params",
    "locks",
    "progress",
    "added_tokens",
    "tokenizer_files",
    "tokenizer",
    "text_metrics",
)


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_of(file: Path) -> str:
    """``trainer`` for src/gpt2/trainer.py, ``judge`` for all of src/gpt2/judge/."""
    return file.relative_to(GPT2).with_suffix("").parts[0]


def own_modules(file: Path) -> set[str]:
    """The modules of gpt2 that a file imports."""
    return {name.split(".")[1] for name in imports(file) if name.startswith("gpt2.")}


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", sorted(GPT2.rglob("*.py")), ids=relative)
def test_imports_go_down(file: Path) -> None:
    module = module_of(file)
    if module == "__init__":
        assert not own_modules(file)
        return
    assert module in LEVEL, f"give {module} a level in {__file__}"
    others = own_modules(file) - {module}
    up = {other for other in others if LEVEL.get(other, len(LEVELS)) >= LEVEL[module]}
    assert not up, f"{module} (level {LEVEL[module]}) must not import {up}"
    assert module == "cli" or "stages" not in packages(file)  # it shows what stages would do


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_forbidden_imports(file: Path) -> None:
    forbidden = {"dvc", "scripts", "tests", *PICKLES}
    if file == GPT2 / "importing" / "nanogpt.py":
        forbidden.remove("pickle")  # the name of an error, see below
    if file.parent != GPT2 / "tracking" and file != GPT2 / "serving.py":
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
    for package in ("sources", "judge", "tracking"):
        files += (GPT2 / package).glob("*.py")
    names = [".".join(file.relative_to(GPT2.parent).with_suffix("").parts) for file in files]
    assert loaded(HEAVY, by=names) == []


def test_modules_that_write_a_text_import_no_compiler() -> None:
    """PyTorch's takes a second."""
    assert loaded({"torch._dynamo"}, by=["gpt2.generation", "gpt2.serving"]) == []


def stages_in_dvc_yaml() -> Iterator[tuple[str, Path, list[str]]]:
    """Name, file and ``.py`` dependencies of each stage."""
    pipeline = yaml12.loads((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        command = re.match(r"python -m stages\.(\w+)", stage["cmd"])
        assert command, f"{name}: cmd must begin with 'python -m stages.<name>'"
        code = [dep for dep in stage["deps"] if dep.endswith(".py") or dep.startswith("src")]
        yield name, STAGES / f"{command[1]}.py", code


def test_dvc_yaml_names_the_code_of_each_stage() -> None:
    for name, file, named in stages_in_dvc_yaml():
        expected = [str(path) for path in dependencies(file)]
        listing = "\n".join(f"      - {path}" for path in expected)
        assert sorted(named) == expected, f"the code that {name} runs:\n{listing}"
