"""The commands that our documents tell people to type."""

import re
from pathlib import Path

from scripts.deps import ROOT

DOCS = ROOT / "docs"


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of code of a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[str]:
    """The lines of all ``sh`` blocks, without their comments."""
    lines = "".join(blocks(document, "sh")).splitlines()
    return [line.split("  #")[0].strip() for line in lines]
