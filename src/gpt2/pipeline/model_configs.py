"""The configurations of a profile's models, as far as they are known before a run."""

from typing import NamedTuple

from gpt2.data.fetching import hub
from gpt2.data.tokenizer.params import BpeTokenizerParams
from gpt2.inference.importing.public_weights import Gpt2WeightsParams
from gpt2.model.config import GPT2Config
from gpt2.model.config_file import read_config
from gpt2.pipeline.earlier_runs import EarlierRuns
from gpt2.pipeline.schemas import GPT2, GPT2_CONTEXT, PRETRAINED, Sections

GPT2_VOCABULARY = 50_257


class ModelConfigs(NamedTuple):
    """None: there is no such model, or its files have to be downloaded first."""

    pretrained: GPT2Config
    downloaded: GPT2Config | None
    base: GPT2Config | None
    """Of the model that is finetuned: one of the two above."""


def model_configs(sections: Sections, runs: EarlierRuns) -> ModelConfigs:
    """The configurations of the models that a profile trains and downloads."""
    downloaded = _downloaded(sections.gpt2_weights, runs)
    pretrained = _pretrained(sections, downloaded)
    base = pretrained if sections.finetune.base_model == PRETRAINED else downloaded
    return ModelConfigs(pretrained, downloaded, base)


def _downloaded(weights: Gpt2WeightsParams, runs: EarlierRuns) -> GPT2Config | None:
    if release := hub.RELEASES.get(weights.size):
        shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
        return GPT2Config(vocab_size=GPT2_VOCABULARY, context_length=GPT2_CONTEXT, **shape)
    file = runs.root / (weights.path or GPT2) / "config.json"
    if file.is_file() and (weights.path or runs.made("download-gpt2-weights")):
        return read_config(file)
    return None


def _pretrained(sections: Sections, downloaded: GPT2Config | None) -> GPT2Config:
    tokenizer, params = sections.tokenizer, sections.pretrain
    size = tokenizer.vocab_size if isinstance(tokenizer, BpeTokenizerParams) else GPT2_VOCABULARY
    if params.initial_weights == GPT2 and downloaded:
        size = downloaded.vocab_size
    return GPT2Config(vocab_size=size, **params.model.model_dump())
