from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with one store, shared by the tests that do not need a new one.

    Its path has characters that are special in URIs.
    """
    root = tmp_path_factory.mktemp("repository") / "what? #1 50%25 für;'&"
    root.mkdir()
    yield root
    assert [path.name for path in root.parent.iterdir()] == [root.name]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
