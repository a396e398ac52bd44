"""Outputs that earlier runs of the pipeline left, and whether they fit a parameter file.

dvc.lock holds the parameters that each stage's outputs were made with.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2.core import files
from gpt2.core.yaml_files import load_yaml
from gpt2.pipeline.schemas import GPT2

INSTRUCTIONS, CORPUS, TOKENIZER, TOKENS = (
    Path("data/raw/instructions.jsonl"),
    Path("data/raw/corpus"),
    Path("data/tokenizer"),
    Path("data/tokens"),
)
OUTPUTS = {
    "download": (
        ("corpus", "instructions", "tokenizer", "judge"),
        (INSTRUCTIONS, CORPUS / files.MANIFEST),
    ),
    "tokenize": (
        ("tokenizer", "tokenize"),
        (TOKENS / files.MANIFEST, TOKENIZER / files.MANIFEST),
    ),
    "download-gpt2-weights": (("gpt2_weights",), (Path(GPT2, files.MANIFEST),)),
}
"""Stages whose outputs improve the estimates: their parameter sections, and files they write."""


@dataclass(frozen=True)
class EarlierRuns:
    """What stages have written below ``root`` with the parameters in ``path``."""

    path: Path
    root: Path = Path()

    def made(self, *stages: str) -> bool:
        """Whether the outputs of all ``stages`` exist and, by dvc.lock, fit the parameters."""
        return all(self._made(stage) for stage in stages)

    def characters(self) -> int:
        """Characters of the corpus; call it only if ``download`` has been made."""
        characters: int = files.read_json(self.root / CORPUS / files.MANIFEST)["characters"]
        return characters

    def tokens(self) -> dict[str, int]:
        """Tokens of each split; call it only if ``tokenize`` has been made."""
        splits = files.read_json(self.root / TOKENS / files.MANIFEST)["splits"]
        return {name: split["tokens"] for name, split in splits.items()}

    def _made(self, stage: str) -> bool:
        sections, outputs = OUTPUTS[stage]
        return all((self.root / output).is_file() for output in outputs) and all(
            section in self._params
            and self._locked_params(stage).get(section) == self._params[section]
            for section in sections
        )

    def _locked_params(self, stage: str) -> dict[str, Any]:
        locked = self._lock.get("stages", {}).get(stage, {})
        params: dict[str, Any] = locked.get("params", {}).get("params.yaml", {})
        return params

    @cached_property
    def _lock(self) -> dict[str, Any]:
        path = self.root / "dvc.lock"
        return load_yaml(path) if path.is_file() else {}

    @cached_property
    def _params(self) -> dict[str, Any]:
        return load_yaml(self.path)
