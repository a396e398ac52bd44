import os

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at once, before one of them loads torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.pipeline import STAGES, Pipeline


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs a file, and one runs all that use the pipeline: fixtures are made once."""
    for item in items:
        with_pipeline = "pipeline" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("pipeline" if with_pipeline else str(item.path)))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Run whole, once, for all tests; who changes it brings it back."""
    made = Pipeline(tmp_path_factory.mktemp("pipeline"))
    assert made.repro() == STAGES
    made.commit()
    return made
