"""Every profile is valid and spells out all keys, so that `dvc exp run -S` works."""

from pathlib import Path

import pytest

from gpt2.core.yaml_files import load_yaml
from gpt2.pipeline import schemas
from gpt2.pipeline.schemas import SCHEMAS
from scripts.deps import ROOT

STARTER = ROOT / "params.yaml"
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", [STARTER, *PROFILES], ids=lambda path: path.stem)
def test_every_section_is_valid_and_consistent_with_the_others(path: Path) -> None:
    assert list(load_yaml(path)) == list(SCHEMAS)
    schemas.read(path)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_named_as_its_file(path: Path) -> None:
    assert load_yaml(path)["profile"] == path.stem


@pytest.mark.parametrize("path", [STARTER, *PROFILES], ids=lambda path: path.stem)
@pytest.mark.parametrize("section", ["pretrain", "finetune", "generate_responses", "llama3_eval"])
def test_every_key_is_in_the_file(path: Path, section: str) -> None:
    written = load_yaml(path)[section]
    assert set(written) == set(SCHEMAS[section].model_fields)
