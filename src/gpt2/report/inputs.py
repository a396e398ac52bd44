"""Reads and checks the outputs of the stages. Missing ones are None or empty."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeForm

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import Params, parse
from gpt2.core.yaml_files import load_yaml
from gpt2.evaluation.judge.tasks import Response, Variant

Row = TypeVar("Row")


class Facts(Params):
    """The keys of a metrics file that the report uses; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")


class Downloaded(Facts):
    documents: int
    characters: int
    instructions: dict[str, dict[str, int]]


class Split(Facts):
    tokens: int


class Tokenized(Facts):
    vocab_size: int
    train: Split
    bytes_per_token: float


class Pretrained(Facts):
    val_loss: float
    perplexity: float
    bits_per_byte: float
    parameters: int
    train_tokens: int


class Weights(Facts):
    size: str


class Finetuned(Facts):
    val_loss: float
    val_loss_before: float
    train_records: int
    train_tokens: int


class Score(Facts):
    chrf: float
    rouge_l: float
    exact_match: float


class KindScores(Params):
    """Scores for one kind of instruction; extra keys hold those of trivial answers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Score] = Field(init=False)

    n: int
    finetuned: Score
    base: Score

    @property
    def trivial(self) -> dict[str, Score]:
        """Scores of the trivial answers, by name."""
        return self.__pydantic_extra__


class Answered(Facts):
    n_records: int
    by_kind: dict[str, KindScores]


class Graded(Facts):
    n_total: int
    scored: int
    invalid: int
    error: int
    mean: float
    median: float


class Interval(Facts):
    mean: float
    low: float
    high: float


class Judged(Facts):
    finetuned: Graded
    base: Graded
    reference: Graded
    shuffled: Graded
    difference: Interval
    control_auc: float
    trusted: bool


class Judgement(Facts):
    """A line of ``judgements.jsonl``."""

    id: int
    variant: Variant
    score: int | None


@dataclass(frozen=True)
class Metrics:
    """The metrics files; ``raw`` has their whole content, by stage."""

    raw: Mapping[str, Any]
    download: Downloaded | None
    tokenize: Tokenized | None
    pretrain: Pretrained | None
    download_gpt2_weights: Weights | None
    finetune: Finetuned | None
    generate_responses: Answered | None
    llama3_eval: Judged | None


class Speed(Facts):
    """A file in ``data/runs/speed/``, from the last time that a stage really ran."""

    wall_seconds: float
    tokens_per_second: float | None = None
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class Inputs:
    """Everything that a report shows, except the machine and the time."""

    stages: Sequence[str]
    """Names of the stages' modules, in the order of the pipeline."""
    params: Mapping[str, Any]
    metrics: Metrics
    speed: Mapping[str, Speed]
    ran: Mapping[str, datetime]
    """When each stage last ran; a stage restored from DVC's cache has not run."""
    curves: Mapping[str, Sequence[Mapping[str, float | None]]]
    """Rows of a training stage's curves."""
    responses: Sequence[Response]
    judgements: Sequence[Judgement]
    judge: Mapping[str, Any] | None
    """The judge's digest and options."""


def read(
    stages: Sequence[str],
    params_path: Path,
    metrics_dir: Path,
    plots_dir: Path,
    speed_dir: Path,
    responses_dir: Path,
    judgements_dir: Path,
) -> Inputs:
    """Read everything that a report shows.

    Raises:
        UserError: there is nothing to report, or a file is damaged.
    """
    metrics_files = _present(metrics_dir, stages, "json")
    speed_files = _present(speed_dir, stages, "json")
    curve_files = _present(plots_dir, ["pretrain", "finetune"], "csv")
    responses = _rows(Response, responses_dir, "responses.jsonl")
    judgements = _rows(Judgement, judgements_dir, "judgements.jsonl")
    if not (metrics_files or curve_files or responses or judgements):
        raise UserError(
            f"nothing to report: neither {metrics_dir} nor {plots_dir} nor {responses_dir} "
            f"nor {judgements_dir} holds results. Run the pipeline first: dvc repro"
        )
    return Inputs(
        stages=stages,
        params=load_yaml(params_path),
        metrics=_metrics(metrics_files),
        speed={stage: _facts(Speed, path) for stage, path in speed_files.items()},
        ran={
            stage: datetime.fromtimestamp(path.stat().st_mtime).astimezone()
            for stage, path in speed_files.items()
        },
        curves={stage: _curve(path) for stage, path in curve_files.items()},
        responses=responses,
        judgements=judgements,
        judge=_manifest_facts(judgements_dir) if judgements else None,
    )


def _present(directory: Path, stages: Sequence[str], ending: str) -> dict[str, Path]:
    paths = {stage: directory / f"{stage}.{ending}" for stage in stages}
    return {stage: path for stage, path in paths.items() if path.is_file()}


def _metrics(paths: Mapping[str, Path]) -> Metrics:
    schemas: dict[str, type[Facts]] = {
        "download": Downloaded,
        "tokenize": Tokenized,
        "pretrain": Pretrained,
        "download_gpt2_weights": Weights,
        "finetune": Finetuned,
        "generate_responses": Answered,
        "llama3_eval": Judged,
    }
    known: dict[str, Any] = {
        stage: _facts(schema, paths[stage]) if stage in paths else None
        for stage, schema in schemas.items()
    }
    return Metrics({stage: files.read_json(path) for stage, path in paths.items()}, **known)


def _facts(schema: TypeForm[Row], path: Path) -> Row:
    return parse(schema, files.read_json(path), str(path))


def _curve(path: Path) -> list[dict[str, float | None]]:
    """Rows of a CSV file of numbers; empty cells are None."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            {column: float(cell) if cell else None for column, cell in row.items()} for row in rows
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not a table of numbers ({error}). Run: dvc repro") from error


def _manifest_facts(directory: Path) -> dict[str, Any]:
    """The entries of a manifest other than its files."""
    return {key: value for key, value in files.read_manifest(directory).items() if key != "files"}


def _rows(schema: TypeForm[Row], directory: Path, name: str) -> list[Row]:
    """The lines of a JSON Lines file; empty if the directory has no manifest."""
    if not (directory / files.MANIFEST).is_file():
        return []
    files.read_manifest(directory)
    adapter: TypeAdapter[Row] = TypeAdapter(schema)
    rows = []
    for number, line in enumerate((directory / name).read_bytes().splitlines(), start=1):
        try:
            rows.append(adapter.validate_json(line))
        except ValidationError as error:
            (problem, *_) = error.errors()
            key = ".".join(map(str, problem["loc"]))
            where = f"{directory / name}: line {number}: {key}"
            raise UserError(f"{where} {problem['msg']}. Run: dvc repro") from error
    return rows
