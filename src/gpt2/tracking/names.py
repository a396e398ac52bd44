"""Names and texts as MLflow's store takes them; no two names become the same."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST = 200
"""Characters of a name. MLflow takes 250; in the parent run a stage stands before it."""
_DIGITS = 12
_REFUSED = re.compile(r"^\.|[^\w.\- ]")
"""In a part between slashes; also a dot at its start, as in ``..``, and the colon, which marks what
is spelled out."""


def mlflow_name(name: str) -> str:
    """``Q&A`` as ``Q:ampersand:A``: what MLflow refuses is spelled out, by its name in Unicode.

    Slashes stay, for MLflow shows what shares a prefix together. What is too long ends in a digest
    of the whole.
    """
    spelled = "/".join(
        _REFUSED.sub(lambda found: _spelled(found[0]), part) or ":empty:"
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
    """The same for a registered model, whose name has neither slashes nor colons."""
    return mlflow_name(name).replace("/", ":solidus:").replace(":", "~")


def renamed(names: Iterable[str]) -> dict[str, str]:
    """The names that MLflow does not take as they are, by those that it gets."""
    return {new: name for name in names if (new := mlflow_name(name)) != name}


def stored(value: object) -> str:
    """A value as text that has an encoding: half a character (a lone surrogate) has none."""
    return str(value).encode("utf-8", "backslashreplace").decode()
