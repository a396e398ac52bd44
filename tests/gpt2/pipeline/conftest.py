"""What several tests of the pipeline use."""

import pytest

from tests.gpt2.evaluation.judge.servers import free_port


@pytest.fixture(scope="session")
def nobody() -> str:
    """An address where nothing answers."""
    return f"http://127.0.0.1:{free_port()}"
