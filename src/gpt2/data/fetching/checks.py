"""How parameters name a file elsewhere, and whether what came is the one that was meant."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gpt2.core import files
from gpt2.core.errors import UserError

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A sha256 as it stands in parameters."""
Url = Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+([/?#].*)?$")]
"""Without a password, which would reach dvc.lock and MLflow: ``~/.netrc`` is the place."""


def check_sha256(path: Path, expected: str, origin: str) -> None:
    """Delete the file at ``path`` and raise `UserError` if its sha256 is not ``expected``."""
    actual = files.sha256(path)
    if actual != expected:
        path.unlink()
        raise UserError(
            f"{origin}: sha256 is {actual}, expected {expected}. It is damaged, or another version"
        )
