"""What each stage of a profile will take: tokens, peak memory and time, estimated before a run.

`gpt2.pipeline.estimate` has the formulas; this module applies them to the stages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gpt2.core.device import choose_runtime
from gpt2.core.errors import UserError
from gpt2.core.processor import parsing_rate
from gpt2.data.sources import package_docs
from gpt2.data.sources.package_docs import PackageDocsCorpus
from gpt2.data.sources.package_instructions import PackageDocsInstructions
from gpt2.evaluation.judge.params import LlamaCppParams
from gpt2.model.config import GPT2Config
from gpt2.pipeline import estimate
from gpt2.pipeline.earlier_runs import EarlierRuns
from gpt2.pipeline.estimate import Batches
from gpt2.pipeline.model_configs import ModelConfigs, model_configs
from gpt2.pipeline.record_counts import RecordCounts, record_counts
from gpt2.pipeline.schemas import Sections
from gpt2.training.flops import measured_speed
from gpt2.training.params import TrainParams

# Measured on one core of an Intel Xeon if not stated otherwise; `Plan` scales to this machine.
PARSING_RATE = 7.1e6
"""`parsing_rate` of that processor."""
SOURCE_BYTES_PER_SECOND = 3.8e6
"""Extracting documentation from installed packages: 102 MB in 28 s."""
CHARACTERS_PER_SECOND = 4.5e6
"""Training a vocabulary and tokenizing: 26 million characters in 10.6 s of CPU time on two cores.
"""
LIGHT_SECONDS, STARTING_SECONDS = 2, 10
"""Imports, checks and writing files: of a stage without torch, and of one with it."""
JUDGEMENT_SECONDS = 0.65
"""SmolLM2-135M in this process: 90 answers in 67 s, everything included, on two cores of an AMD
EPYC."""
DOCUMENTATION_SHARE, CHARACTERS_PER_DOCUMENT = 0.257, 714
"""Characters of documentation per byte of source code, and per document, in the starter profile's
packages."""


@dataclass(frozen=True)
class Estimate:
    """What a stage takes; None: unknown, or it does not apply."""

    stage: str
    parameters: int | None = None
    tokens: float | None = None
    memory: float | None = None
    """Peak bytes."""
    seconds: float | None = None
    basis: str = ""
    """What the numbers are based on, or why there are none."""


@dataclass(frozen=True)
class Plan:
    """The stages of a parameter file, with what earlier runs left below ``root``."""

    path: Path
    sections: Sections
    root: Path = Path()
    timed: bool = True
    """Estimate times, for which this machine is measured for a second or two."""

    def estimates(self) -> Iterator[Estimate]:
        """One row for each stage, in the order of the pipeline."""
        yield self._download()
        yield self._tokenize()
        yield self._pretrain()
        yield self._download_gpt2_weights()
        yield self._finetune()
        yield self._generate_responses()
        yield self._llama3_eval()

    @cached_property
    def runs(self) -> EarlierRuns:
        """The outputs that already exist."""
        return EarlierRuns(self.path, self.root)

    @cached_property
    def models(self) -> ModelConfigs:
        """The configurations of the models."""
        return model_configs(self.sections, self.runs)

    @cached_property
    def _records(self) -> RecordCounts | None:
        return record_counts(self.sections, self.runs, self.models.base)

    @cached_property
    def _slowdown(self) -> float:
        """Time that this machine takes for work other than matrix products, as a multiple of the
        time on the machine where the constants were measured."""
        return PARSING_RATE / parsing_rate() if self.timed else 1.0

    def _download(self) -> Estimate:
        data = (self.sections.corpus, self.sections.instructions)
        kinds = PackageDocsCorpus | PackageDocsInstructions
        packages = sorted({name for one in data if isinstance(one, kinds) for name in one.packages})
        if not packages:
            return Estimate("download", basis="depends on the network")
        try:
            size = package_docs.source_bytes(packages)
        except UserError as error:
            return Estimate("download", basis=str(error))
        seconds = LIGHT_SECONDS + size / SOURCE_BYTES_PER_SECOND
        basis = f"{size / 1e6:,.0f} MB of source code to read; downloads not counted"
        return Estimate("download", seconds=seconds * self._slowdown, basis=basis)

    def _tokenize(self) -> Estimate:
        tokens = None
        if self.runs.made("download"):
            characters = self.runs.characters()
            basis = f"{characters:,} characters"
        elif characters := self._characters_at_most():
            basis = f"about {characters:,} characters"
        else:
            return Estimate("tokenize", basis="unknown until the corpus is downloaded")
        if self.runs.made("tokenize"):
            tokens = sum(self.runs.tokens().values())
        seconds = (LIGHT_SECONDS + characters / CHARACTERS_PER_SECOND) * self._slowdown
        return Estimate("tokenize", tokens=tokens, seconds=seconds, basis=basis)

    def _characters_at_most(self) -> int:
        """Characters of a corpus of documentation before it is downloaded; 0: unknown."""
        corpus = self.sections.corpus
        if not isinstance(corpus, PackageDocsCorpus):
            return 0
        try:
            everything = package_docs.source_bytes(corpus.packages) * DOCUMENTATION_SHARE
        except UserError:
            return 0
        limit = math.inf if corpus.limit is None else corpus.limit * CHARACTERS_PER_DOCUMENT
        return int(min(everything, limit))

    def _pretrain(self) -> Estimate:
        params, config = self.sections.pretrain, self.models.pretrained
        length = config.context_length
        evaluated, basis = 0, "evaluations not counted"
        if self.runs.made("download", "tokenize"):
            evaluations = _evaluations(params, params.steps)
            evaluated = self.runs.tokens()["validation"] * evaluations
            basis = f"{evaluations} evaluations counted"
        batches = Batches(
            steps=params.steps,
            tokens=params.steps * params.batch_size * length,
            in_memory=_sequences_in_memory(params) * length,
            length=length,
            evaluated=evaluated,
        )
        return self._training("pretrain", config, params, batches, basis)

    def _download_gpt2_weights(self) -> Estimate:
        stage = "download-gpt2-weights"
        params, config = self.sections.gpt2_weights, self.models.downloaded
        if params.size == "none":
            return Estimate(stage, seconds=LIGHT_SECONDS * self._slowdown, basis="not used")
        if config is None:
            return Estimate(stage, basis="unknown until the model is downloaded")
        n = estimate.parameters(config)
        basis = f"{4 * n / 1e6:,.0f} MB from the {params.source}"
        return Estimate(stage, parameters=n, memory=12 * n, basis=basis)

    def _finetune(self) -> Estimate:
        params, config, records = self.sections.finetune, self.models.base, self._records
        if config is None:
            return Estimate("finetune", basis="unknown until the model is downloaded")
        if records is None or not records.train:
            basis = records.basis if records else "unknown until the instructions are downloaded"
            return Estimate("finetune", estimate.parameters(config), basis=basis)
        config = config.model_copy(update={"dropout": params.dropout})
        steps = params.epochs * math.ceil(records.train / params.batch_size)
        rows = _sequences_in_memory(params)
        mean, longest = records.mean_tokens, min(records.longest, config.context_length)
        batches = Batches(
            steps=steps,
            tokens=params.epochs * records.train * mean,
            # The sum of random lengths deviates from its mean by the square root of their number.
            in_memory=rows * mean + math.sqrt(rows) * max(0, longest - mean),
            length=longest,
            counted=records.response_share if params.loss_on == "response" else 1.0,
            evaluated=records.validation * mean * _evaluations(params, steps),
        )
        basis = f"{records.train:,.0f} records, {params.epochs} epoch(s), {steps:,} steps; "
        basis += records.basis
        return self._training("finetune", config, params, batches, basis, keep_best=True)

    def _training(
        self,
        stage: str,
        config: GPT2Config,
        params: TrainParams,
        batches: Batches,
        basis: str,
        keep_best: bool = False,
    ) -> Estimate:
        n = estimate.parameters(config)
        try:
            runtime = choose_runtime(params)
        except UserError as error:
            return Estimate(stage, n, batches.tokens, basis=str(error))
        seconds = None
        if self.timed:
            speed = measured_speed(runtime, config.n_embd)
            training = estimate.training_seconds(config, params, batches, speed, runtime.dtype)
            seconds = STARTING_SECONDS * self._slowdown + training
            basis += f"; {speed.products / 1e9:,.0f} GFLOP/s measured on {runtime.device.type}"
        return Estimate(
            stage,
            parameters=n,
            tokens=batches.tokens,
            memory=estimate.training_memory(config, params, batches, runtime, keep_best),
            seconds=seconds,
            basis=basis,
        )

    def _generate_responses(self) -> Estimate:
        stage = "generate-responses"
        params, config, records = self.sections.generate_responses, self.models.base, self._records
        if config is None or records is None:
            return Estimate(stage, basis="unknown, as for finetune")
        answers = 2 * records.test
        tokens = answers * params.max_new_tokens
        try:
            runtime = choose_runtime(params)
        except UserError as error:
            return Estimate(stage, tokens=tokens, basis=str(error))
        rows = max(1, min(params.batch_size, int(records.test)))
        positions = min(records.longest + params.max_new_tokens, config.context_length)
        seconds, basis = None, f"upper bound; {answers:,.0f} answers, {rows} at once"
        if self.timed:
            step_seconds = estimate.measured_token_seconds(config, rows, runtime)
            steps = math.ceil(answers / rows) * params.max_new_tokens
            seconds = STARTING_SECONDS * self._slowdown + steps * step_seconds
            basis += f", {step_seconds * 1000:,.0f} ms per step"
        if records.mean_tokens + params.max_new_tokens > config.context_length:
            basis += "; tokens beyond the context take much longer"
        return Estimate(
            stage,
            parameters=estimate.parameters(config),
            tokens=tokens,
            memory=estimate.generation_memory(config, rows, positions, runtime),
            seconds=seconds,
            basis=basis,
        )

    def _llama3_eval(self) -> Estimate:
        params, judge = self.sections.llama3_eval, self.sections.judge
        answers = 2 * (params.n_items + params.n_controls)
        basis = f"{answers} answers"
        if isinstance(judge, LlamaCppParams) and "SmolLM2-135M" in str(judge.model):
            judgement_seconds = JUDGEMENT_SECONDS * self._slowdown
            basis += f", {judgement_seconds:.2f} s each with this judge"
            seconds = LIGHT_SECONDS * self._slowdown + answers * judgement_seconds
            return Estimate("llama3-eval", seconds=seconds, basis=basis)
        return Estimate("llama3-eval", basis=f"{basis}; depends on the judge")


def _sequences_in_memory(params: TrainParams) -> int:
    return min(params.micro_batch_size or params.batch_size, params.batch_size)


def _evaluations(params: TrainParams, steps: int) -> int:
    return len(range(0, steps, params.eval_interval)) + 1
