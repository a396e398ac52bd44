"""Stage ``llama3-eval``: a language model grades the responses, and controls grade the judge."""

import csv
import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.locks import locked
from gpt2.core.params import parse
from gpt2.core.progress import Progress
from gpt2.evaluation.judge.backends.judges import open_judge
from gpt2.evaluation.judge.params import JudgeParams, LlamaEvalParams
from gpt2.evaluation.judge.runner import cache_key, judgements
from gpt2.evaluation.judge.statistics import BIN_WIDTH
from gpt2.evaluation.judge.summary import histogram_rows, in_words, summarise
from gpt2.evaluation.judge.tasks import VARIANTS, Response, Task, make_tasks
from gpt2.pipeline.stage import EXAMPLES, as_program, running

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

HISTOGRAM = Path("plots/llama3_eval_scores.csv")
KEPT_SECONDS = 30 * 24 * 3600
"""How long unfinished judgements wait for their judge and their responses to come back."""


@click.command(epilog=EXAMPLES.format("llama3-eval"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--responses-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judge-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judgements-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, responses_dir: Path, judge_dir: Path, judgements_dir: Path) -> None:
    """Let a language model grade the responses of the finetuned and the base model."""
    with running("llama3-eval", params_path, sections=["llama3_eval"]) as run:
        params = run.load(LlamaEvalParams, "llama3_eval")
        tasks = _tasks(responses_dir, params)
        judge_params = _judge_params(judge_dir)
        judge = open_judge(judge_params, judge_dir, params)
        run.tracker.dataset(
            "responses",
            digest=files.digest(responses_dir),
            source=responses_dir,
            context="evaluation",
            rows=len(tasks),
        )
        run.tracker.begin()
        # The log outlives a crash or a failure; one log for each judge and each set of responses.
        key = cache_key(judge, files.digest(responses_dir))[:16]
        log = run.runs / "llama3-eval" / f"{key}.jsonl"
        judged = []
        with locked(log.with_suffix(".lock"), on_wait=_say):
            progress = Progress("judging", len(tasks), "answer")
            for judgement in judgements(tasks, judge, log):
                judged.append(judgement)
                progress.advance()
            progress.close()
        summary = summarise(judged, params)

        rows = [asdict(judgement) for judgement in judged]
        facts = {"judge": judge.digest, **judge_params.origin, **judge.options}
        with files.new_directory(judgements_dir, facts) as new:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.write_text(new / "judgements.jsonl", "".join(lines))
        bins = histogram_rows(judged)
        files.write_text(HISTOGRAM, _csv(bins))
        run.tracker.table(rows, "judgements.json")
        run.tracker.figure(_figure(bins), "llama3_eval_scores.png")
        run.metrics({**summary, "judge_digest": judge.digest})
        _clear(log)
        click.echo(in_words(summary, params.min_control_auc))


def _say(holder: str) -> None:
    logger.info("waiting for process %s: this judge grades the same responses there", holder)


def _clear(finished: Path) -> None:
    """Delete a finished log, and those that nobody has gone on with for long.

    An experiment that runs at the same time has written to its own just now.
    """
    finished.unlink(missing_ok=True)
    for log in finished.parent.glob("*.jsonl"):
        with suppress(FileNotFoundError):
            if time.time() - log.stat().st_mtime > KEPT_SECONDS:
                log.unlink()


def _judge_params(judge_dir: Path) -> JudgeParams:
    """Section ``judge`` as the download stage left it in the manifest."""
    manifest = files.read_manifest(judge_dir)
    section = {key: value for key, value in manifest.items() if key != "files"}
    return parse(JudgeParams, section, str(judge_dir / files.MANIFEST))


def _tasks(responses_dir: Path, params: LlamaEvalParams) -> list[Task]:
    files.read_manifest(responses_dir)
    path = responses_dir / "responses.jsonl"
    responses = _read_responses(path)
    try:
        return make_tasks(responses, params)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _read_responses(path: Path) -> list[Response]:
    responses, problems = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            responses.append(Response.model_validate_json(line))
        except ValidationError as error:
            problems += [
                f"  line {number}: {'.'.join(map(str, problem['loc']))} {problem['msg']}"
                for problem in error.errors()
            ]
    if problems or not responses:
        raise UserError(f"{path}: no valid responses\n" + "\n".join(problems or ["  it is empty"]))
    return responses


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _figure(bins: Sequence[Mapping[str, object]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    for axes, variant in zip(figure.subplots(len(VARIANTS), sharex=True), VARIANTS, strict=True):
        own = [row for row in bins if row["variant"] == variant]
        lows, heights = [row["score"] for row in own], [row["count"] for row in own]
        axes.bar(lows, heights, BIN_WIDTH, align="edge")
        axes.set_ylabel(variant)
    figure.supxlabel("score")
    return figure


if __name__ == "__main__":
    as_program(main)
