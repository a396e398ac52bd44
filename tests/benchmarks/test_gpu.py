"""The check of a GPU, on the CPU: all of it runs, with no more packages than it says."""

import os
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from scripts.deps import ROOT

NEEDED = ("torch", "numpy", "click", "psutil", "pydantic")
NEEDED += ("safetensors", "tiktoken", "tqdm")
OURS = {"gpt2", "stages"}
REFUSE = """
import sys

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        return None if name in {refused!r} else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Finder, sys.meta_path)
"""


def with_what_they_need(packages: tuple[str, ...]) -> set[str]:
    """Names of the packages, and of all below them."""
    found, left = set[str](), [*packages]
    while left:
        name = left.pop()
        if name.lower() not in found:
            found.add(name.lower())
            needs = map(Requirement, distribution(name).requires or [])
            left += [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def test_it_names_what_it_needs() -> None:
    text = (ROOT / "benchmarks" / "gpu.py").read_text(encoding="utf-8")
    assert [name for name in NEEDED if name not in text.split('"""')[1]] == []


def test_all_of_it_runs_with_these_packages_alone(tmp_path: Path) -> None:
    allowed = {name.replace("_", "-") for name in with_what_they_need(NEEDED)}
    refused = {
        module
        for module, packages in packages_distributions().items()
        if not {package.lower().replace("_", "-") for package in packages} & allowed
    } - OURS
    assert {"dvc", "mlflow", "pandas", "matplotlib", "transformers", "xllamacpp"} <= refused
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(refused=refused))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Hugging Face is skipped" in done.stdout
    assert "weights off by 0.0" in done.stdout
    for batch in ("rows of 256", "packed sequences"):
        assert f"checked: {batch}, float32, off the CPU's float32 by: logits 0.0" in done.stdout
    assert "3 prompts side by side, 4 new tokens each" in done.stdout
