"""YAML 1.2 for tests, read and written by ruamel.yaml as DVC does it."""

import io
from typing import Any

from ruamel.yaml import YAML


def loads(text: str) -> Any:
    return YAML(typ="safe").load(text)


def dumps(value: object) -> str:
    """``value`` in block style, its keys in their order."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()
