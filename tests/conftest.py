import pytest

from tests.pipeline import STAGES, Pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Run whole, once, for all tests; who changes it brings it back."""
    made = Pipeline(tmp_path_factory.mktemp("pipeline"))
    assert made.repro() == STAGES
    made.commit()
    return made
