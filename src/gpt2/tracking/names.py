"""Names and texts in a form that MLflow accepts. Different names stay different."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST = 200
"""Maximal length of a name. MLflow allows 250; in the parent run the stage is a prefix."""
_DIGITS = 12
_INVALID = re.compile(r"^\.|[^\w.\- ]")
"""Within a part between slashes: a leading dot, as in ``..``, and characters that MLflow rejects.

The colon is among them, as it marks characters that are spelled out."""


def mlflow_name(name: str) -> str:
    """Spell out characters that MLflow rejects, by their Unicode names: ``Q:ampersand:A`` for Q&A.

    Slashes stay, as MLflow groups names by prefix. A name that is too long is cut and ends in a
    digest of the whole name.
    """
    spelled = "/".join(
        _INVALID.sub(lambda found: _spelled(found[0]), part) or ":empty:"
        for part in name.split("/")
    )
    if len(spelled) <= LONGEST:
        return spelled
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{spelled[: LONGEST - _DIGITS - 2]}:{digest}:"


def _spelled(character: str) -> str:
    name = unicodedata.name(character, f"u{ord(character):04x}")  # control characters have none
    return f":{name.lower()}:"


def model_name(name: str) -> str:
    """`mlflow_name` for a registered model, whose name must not have slashes or colons."""
    return mlflow_name(name).replace("/", ":solidus:").replace(":", "~")


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Maps each name that `mlflow_name` has changed back to the original."""
    return {new: name for name in names if (new := mlflow_name(name)) != name}


def encodable(value: object) -> str:
    """A value as text that has an encoding: lone surrogates, which have none, are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()
