"""Which of our files decide the outputs of a stage: its code among the ``deps`` in dvc.yaml.

DVC follows no imports. ``python -m scripts.deps`` prints, for every stage, the files that it runs,
without those in `EXCLUDED`.
"""

import ast
from functools import cache
from pathlib import Path

import stages  # noqa: F401  puts src/ on the path
from gpt2.core.streams import standard_streams

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"gpt2": ROOT / "src" / "gpt2", "stages": ROOT / "stages"}

GPT2 = "src/gpt2"
EXCLUDED = {
    f"{GPT2}/__init__.py": "how threads wait for each other",
    "stages/__init__.py": "where the code is",
    f"{GPT2}/core/errors.py": "messages",
    f"{GPT2}/core/interrupts.py": "when a signal takes effect",
    f"{GPT2}/core/locks.py": "who has to wait",
    f"{GPT2}/core/params.py": "checks of parameters, which are dependencies themselves",
    f"{GPT2}/core/processor.py": "how busy the machine is",
    f"{GPT2}/core/progress.py": "messages",
    f"{GPT2}/core/repository.py": "whether git is there",
    f"{GPT2}/core/streams.py": "standard output",
    f"{GPT2}/core/web.py": "proxies and waiting",
    f"{GPT2}/core/yaml_files.py": "reads parameters, which are dependencies themselves",
    f"{GPT2}/pipeline/stage.py": "lock, messages and signals; what is written comes from the stage",
    f"{GPT2}/tracking": "what MLflow is shown",
}
"""Files and folders that cannot change an output of any stage, and why. What they import is not
followed either."""
EXCLUDED_FROM = {
    "download": {
        f"{GPT2}/evaluation/judge/backends": "no judge is asked",
        f"{GPT2}/evaluation/judge/protocol.py": "no judge is asked",
    },
    "download_gpt2_weights": {
        f"{GPT2}/data/fetching/checks.py": "refuses other files",
        f"{GPT2}/data/fetching/download.py": "fetches what a digest names",
        f"{GPT2}/data/fetching/http_client.py": "fetches what a digest names",
        f"{GPT2}/data/fetching/wheels.py": "fetches what a digest names",
    },
    "finetune": {f"{GPT2}/inference": "sample texts, for MLflow alone"},
    "generate_responses": {
        f"{GPT2}/core/model_files.py": "names of files that are read",
        f"{GPT2}/data/batch.py": "no batch is made",
    },
    "llama3_eval": {f"{GPT2}/data/fetching/checks.py": "refuses parameters"},
    "own_files": {
        f"{GPT2}/core/model_files.py": "names of files that are read",
        f"{GPT2}/data/fetching": "nothing is downloaded",
        f"{GPT2}/data/records.py": "no record is made",
        f"{GPT2}/data/tokenizer": "no text is read",
        f"{GPT2}/evaluation/judge/backends": "no judge is asked",
        f"{GPT2}/evaluation/judge/protocol.py": "no judge is asked",
        f"{GPT2}/model/config_file.py": "no model is read",
        f"{GPT2}/model/weights.py": "no model is read",
    },
    "report": {f"{GPT2}/data/fetching/checks.py": "refuses parameters"},
    "pretrain": {f"{GPT2}/inference": "sample texts, for MLflow alone"},
}
"""The same for one stage."""


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names that a file imports, anywhere in its code: ``from a import b`` gives ``a.b``.

    Relative imports are not known here; `tests/test_architecture.py` forbids them.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def files_of(name: str) -> set[Path]:
    """Our files that Python runs when ``name`` is imported: the module, and packages with code."""
    package, *parts = name.split(".")
    if package not in PACKAGES:
        return set()
    path, files = PACKAGES[package], {PACKAGES[package] / "__init__.py"}
    for part in parts:
        path /= part
        files |= {path.with_suffix(".py"), path / "__init__.py"}
    return {file for file in files if file.is_file() and not _only_docstring(file)}


def decisive(stage: Path) -> list[str]:
    """A stage's file and all of our files that it imports, directly or not, without excluded ones.

    The paths are relative to the repository.
    """
    left_out = {*EXCLUDED, *EXCLUDED_FROM.get(stage.stem, {})}
    found: set[Path] = set()
    waiting = {stage}
    while waiting:
        current = waiting.pop()
        found.add(current)
        for name in imports(current):
            new = files_of(name) - found
            waiting |= {file for file in new if not is_in(file.relative_to(ROOT), left_out)}
    return sorted(str(path.relative_to(ROOT)) for path in found)


def is_in(path: Path, places: set[str]) -> bool:
    """Whether ``path`` is one of ``places`` or in a folder among them."""
    return any(str(place) in places for place in (path, *path.parents))


@cache
def _only_docstring(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


if __name__ == "__main__":
    with standard_streams(needed=True):
        for stage in sorted((ROOT / "stages").glob("[!_]*.py")):
            print(f"{stage.name}:", *(f"  {path}" for path in decisive(stage)), sep="\n")
