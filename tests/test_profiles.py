"""Every profile is valid, and all have the keys of the starter, so that `dvc exp run -S` works."""

from pathlib import Path

import pytest
import yaml

from gpt2 import params
from gpt2.judge.params import JudgeParams, LlamaEvalParams
from gpt2.tokenizer import TokenizerParams
from scripts.deps import ROOT
from stages.download import CorpusParams, InstructionsParams
from stages.download_gpt2_weights import Gpt2WeightsParams
from stages.finetune import FinetuneParams
from stages.generate_responses import GenerateResponsesParams
from stages.pretrain import PretrainParams
from stages.tokenize import TokenizeParams

STARTER = ROOT / "params.yaml"
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
SCHEMAS = {
    "profile": str,
    "corpus": CorpusParams,
    "instructions": InstructionsParams,
    "tokenizer": TokenizerParams,
    "judge": JudgeParams,
    "tokenize": TokenizeParams,
    "pretrain": PretrainParams,
    "gpt2_weights": Gpt2WeightsParams,
    "finetune": FinetuneParams,
    "generate_responses": GenerateResponsesParams,
    "llama3_eval": LlamaEvalParams,
}


@pytest.mark.parametrize("path", [STARTER, *PROFILES], ids=lambda path: path.stem)
def test_every_section_is_valid(path: Path) -> None:
    assert list(params.load_yaml(path)) == list(SCHEMAS)
    for section, schema in SCHEMAS.items():
        params.load(schema, path, section)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_named_as_its_file(path: Path) -> None:
    assert params.load_yaml(path)["profile"] == path.stem


@pytest.mark.parametrize("path", [STARTER, *PROFILES], ids=lambda path: path.stem)
@pytest.mark.parametrize("section", ["pretrain", "finetune", "generate_responses", "llama3_eval"])
def test_every_key_stands_in_the_file(path: Path, section: str) -> None:
    written = yaml.safe_load(path.read_text())[section]
    assert set(written) == set(SCHEMAS[section].model_fields)
