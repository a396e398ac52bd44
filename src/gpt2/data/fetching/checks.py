"""Digests and addresses of downloads in params.yaml, and the check of a downloaded file."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gpt2.core import files
from gpt2.core.errors import UserError

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A hexadecimal sha256."""
Url = Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+([/?#].*)?$")]
"""An address without a password, which would be stored in dvc.lock and MLflow. Passwords belong in
``~/.netrc``."""


def check_sha256(path: Path, expected: str, origin: str) -> None:
    """Delete the file at ``path`` and raise `UserError` if its sha256 is not ``expected``."""
    actual = files.sha256(path)
    if actual != expected:
        path.unlink()
        raise UserError(
            f"{origin}: sha256 is {actual}, expected {expected}. It is damaged, or another version"
        )
