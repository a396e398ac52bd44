"""Which of our files a stage runs: those among its ``deps`` in dvc.yaml that are not data.

DVC follows no imports. ``python -m scripts.deps`` prints the list of every stage.
"""

import ast
from functools import cache
from pathlib import Path

import stages  # noqa: F401  puts src/ on the path
from gpt2.streams import standard_streams

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"gpt2": ROOT / "src" / "gpt2", "stages": ROOT / "stages"}
DATA = ("*.jinja", "*.css")
"""Files that a module reads from its own package."""


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


def dependencies(file: Path) -> list[Path]:
    """``file``, all that it imports of ours, directly or not, and the data beside it.

    The paths are relative to the repository.
    """
    found: set[Path] = set()
    waiting = {file} | files_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
    while waiting:
        current = waiting.pop()
        found.add(current)
        for name in imports(current):
            waiting |= files_of(name) - found
    for folder in {path.parent for path in found}:
        found |= {path for pattern in DATA for path in folder.glob(pattern)}
    return sorted(path.relative_to(ROOT) for path in found)


@cache
def _only_docstring(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


if __name__ == "__main__":
    with standard_streams(needed=True):
        for stage in sorted((ROOT / "stages").glob("[!_]*.py")):
            print(f"{stage.name}:", *(f"      - {path}" for path in dependencies(stage)), sep="\n")
