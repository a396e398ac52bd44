"""CONTRIBUTING.md and docs/README.md link to files that exist; the CI workflow runs `.ci/run`."""

import re
from pathlib import Path

import pytest

from scripts.deps import ROOT
from tests import yaml12


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (path.parent / Path(link)).exists()] == []


def test_the_workflow_runs_the_tests_on_every_system() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    job = yaml12.loads(text)["jobs"]["test"]
    assert job["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }
    assert job["steps"][-1]["run"] == ".ci/run"
