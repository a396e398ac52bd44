"""Whether a file is the one that was meant."""

from pathlib import Path

from gpt2 import files
from gpt2.errors import UserError


def check_sha256(path: Path, expected: str, origin: str) -> None:
    """Delete the file at ``path`` and raise `UserError` if its sha256 is not ``expected``."""
    actual = files.sha256(path)
    if actual != expected:
        path.unlink()
        raise UserError(
            f"{origin}: sha256 is {actual}, expected {expected}. It is damaged, or another version"
        )
