"""The schema of params.yaml: its sections, and the rules between them.

The parameter classes are defined next to the code that they configure.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.core.yaml_files import ambiguities, read_yaml
from gpt2.data.corpus import TokenizeParams
from gpt2.data.fetching.hub import RELEASES
from gpt2.data.instructions import prompt
from gpt2.data.sources.local_files import FileCorpus, FileInstructions, is_output
from gpt2.data.sources.params import CorpusParams, InstructionsParams
from gpt2.data.tokenizer.params import TokenizerParams
from gpt2.evaluation.judge.params import FileModel, JudgeParams, LlamaCppParams, LlamaEvalParams
from gpt2.inference.generation.responses import GenerateResponsesParams
from gpt2.inference.importing.public_weights import Gpt2WeightsParams
from gpt2.model.config import Architecture
from gpt2.training.finetuning import FinetuneParams
from gpt2.training.pretraining import PretrainParams, other_shape

log = logging.getLogger(__name__)

PRETRAINED, GPT2 = "data/models/pretrained", "data/models/gpt2"
"""The models that stages write; `finetune.base_model` names one of them."""
GPT2_CONTEXT = 1024
"""Context length of all of OpenAI's models."""


class Sections(NamedTuple):
    """A parameter file: its sections, in the order of the file."""

    profile: str
    corpus: CorpusParams
    instructions: InstructionsParams
    tokenizer: TokenizerParams
    judge: JudgeParams
    tokenize: TokenizeParams
    pretrain: PretrainParams
    gpt2_weights: Gpt2WeightsParams
    finetune: FinetuneParams
    generate_responses: GenerateResponsesParams
    llama3_eval: LlamaEvalParams


SCHEMAS: dict[str, Any] = get_type_hints(Sections, include_extras=True)
"""The schema of each section, in the order of the file."""


def read(path: Path) -> Sections:
    """Read and check the parameter file at ``path``.

    Raises:
        UserError: lists all problems, in the sections and between them.
    """
    file = read_yaml(path)
    values = file.values
    for note in ambiguities(file, SCHEMAS):
        log.warning(note)
    problems = [f"section '{name}' is missing" for name in SCHEMAS if name not in values]
    problems += [f"section '{name}' is unknown" for name in values if name not in SCHEMAS]
    sections: dict[str, Any] = {}
    for name, schema in SCHEMAS.items():
        if name not in values:
            continue
        try:
            sections[name] = parse(schema, values[name], name)
        except UserError as error:
            lines = str(error).split("\n  ")
            problems += lines[len(lines) > 1 :]  # if there are several, the first line counts them
    problems += contradictions(sections)
    if problems:
        raise UserError("\n  ".join([f"{path}: {len(problems)} problem(s)", *problems]))
    return Sections(**sections)


def contradictions(sections: dict[str, Any]) -> list[str]:
    """Problems between sections that are valid by themselves; rules need all of their sections."""
    problems: list[str] = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if names.keys() <= sections.keys():
            problems += rule(*(sections[name] for name in names))
    return problems


def _own_files_are_no_outputs(
    corpus: CorpusParams,
    instructions: InstructionsParams,
    judge: JudgeParams,
    gpt2_weights: Gpt2WeightsParams,
) -> Iterator[str]:
    own = {"gpt2_weights.path": gpt2_weights.path}
    if isinstance(corpus, FileCorpus):
        own["corpus.path"] = corpus.path
    if isinstance(instructions, FileInstructions):
        own["instructions.path"] = instructions.path
    if isinstance(judge, LlamaCppParams) and isinstance(judge.model, FileModel):
        own["judge.model.file"] = judge.model.file
    for key, path in own.items():
        if path is not None and is_output(Path(path), Path()):
            yield f"{key}: {path}: the pipeline writes there itself. Use a path elsewhere"


def _every_split_has_records(instructions: InstructionsParams) -> Iterator[str]:
    for key in ("validation_fraction", "test_fraction"):
        if getattr(instructions, key) == 0:
            yield f"instructions.{key}: 0 leaves no record for this split. Try 0.1"


def _base_model_is_made(finetune: FinetuneParams, gpt2_weights: Gpt2WeightsParams) -> Iterator[str]:
    if finetune.base_model not in (PRETRAINED, GPT2):
        yield (
            f"finetune.base_model: no stage writes {finetune.base_model!r}. "
            f"Set it to {PRETRAINED} or {GPT2}"
        )
    if finetune.base_model == GPT2 and gpt2_weights.size == "none":
        yield (
            f"finetune.base_model: {GPT2}, but gpt2_weights.size is none. "
            f"Set the size, or finetune {PRETRAINED}"
        )


def _initial_weights_are_made(
    pretrain: PretrainParams, gpt2_weights: Gpt2WeightsParams
) -> Iterator[str]:
    if pretrain.initial_weights == "none":
        return
    if gpt2_weights.size == "none":
        yield (
            f"pretrain.initial_weights: {GPT2}, but gpt2_weights.size is none. "
            "Set the size, or initial_weights: none for random weights"
        )
    if release := RELEASES.get(gpt2_weights.size):
        shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
        problem = other_shape(pretrain.model, Architecture(context_length=GPT2_CONTEXT, **shape))
        if problem:
            yield problem


def _vocabulary_is_the_models(
    tokenizer: TokenizerParams, pretrain: PretrainParams
) -> Iterator[str]:
    if pretrain.initial_weights == "none" and tokenizer.kind == "model":
        yield "tokenizer.kind: model, but pretrain.initial_weights is none. Set it to gpt2 or bpe"
    if pretrain.initial_weights != "none" and tokenizer.kind == "bpe":
        yield (
            f"tokenizer.kind: bpe, but pretrain.initial_weights is {pretrain.initial_weights}, "
            "whose embeddings belong to its own vocabulary. Set it to {kind: model}"
        )


def _warmup_ends(pretrain: PretrainParams) -> Iterator[str]:
    if pretrain.warmup_steps >= pretrain.steps:
        yield (
            f"pretrain.warmup_steps: {pretrain.warmup_steps} of {pretrain.steps} steps, so the "
            "learning rate never reaches its peak. Set fewer"
        )
    elif pretrain.decay_steps and pretrain.warmup_steps + pretrain.decay_steps > pretrain.steps:
        yield (
            f"pretrain.decay_steps: {pretrain.decay_steps}, with {pretrain.warmup_steps} of warmup "
            f"more than the {pretrain.steps} steps. Set fewer, or null for all after warmup"
        )


def _prompts_fit(pretrain: PretrainParams) -> Iterator[str]:
    for index, text in enumerate(pretrain.prompts):
        if not text or _least_tokens(text) >= pretrain.model.context_length:
            yield (
                f"pretrain.prompts.{index}: must not be empty, and shorter than the "
                f"{pretrain.model.context_length} tokens of model.context_length"
            )


def _instructions_fit(pretrain: PretrainParams, finetune: FinetuneParams) -> Iterator[str]:
    context, least = pretrain.model.context_length, _least_tokens(prompt("-", "-"))
    if finetune.base_model == PRETRAINED and context <= least:
        yield (
            f"pretrain.model.context_length: {context}, but the template of an instruction has "
            f"{least} tokens or more, so {PRETRAINED} cannot be finetuned. Set 128 or more"
        )


def _controls_are_among_the_items(llama3_eval: LlamaEvalParams) -> Iterator[str]:
    if llama3_eval.n_controls > llama3_eval.n_items:
        yield (
            f"llama3_eval.n_controls: {llama3_eval.n_controls} of {llama3_eval.n_items} n_items. "
            "Set it to at most n_items"
        )


def _replies_fit(llama3_eval: LlamaEvalParams) -> Iterator[str]:
    if llama3_eval.max_tokens >= llama3_eval.n_ctx:
        yield (
            f"llama3_eval.max_tokens: {llama3_eval.max_tokens} leaves no room for a prompt in "
            f"n_ctx = {llama3_eval.n_ctx}"
        )


def _least_tokens(text: str) -> int:
    """A lower bound for any byte-level BPE: no merge crosses a word boundary."""
    return max(1, len(text.split()))


RULES: tuple[Callable[..., Iterator[str]], ...] = (
    _own_files_are_no_outputs,
    _every_split_has_records,
    _base_model_is_made,
    _initial_weights_are_made,
    _vocabulary_is_the_models,
    _warmup_ends,
    _prompts_fit,
    _instructions_fit,
    _controls_are_among_the_items,
    _replies_fit,
)
"""The arguments of a rule name the sections that it compares; it yields a message per problem."""
