"""Stage ``llama3-eval``: a language model grades the responses, and controls check the judge."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from gpt2.core import files
from gpt2.evaluation.judge.backends.judges import open_judge
from gpt2.evaluation.judge.histogram import histogram_csv, histogram_figure, histogram_rows
from gpt2.evaluation.judge.params import LlamaEvalParams, read_judge_params
from gpt2.evaluation.judge.runner import judge_all
from gpt2.evaluation.judge.summary import in_words, summarise
from gpt2.evaluation.judge.tasks import load_tasks
from gpt2.evaluation.judge.verdict_log import clear_logs, log_path
from gpt2.pipeline.stage import EXAMPLES, as_program, running

HISTOGRAM = Path("plots/llama3_eval_scores.csv")


@click.command(epilog=EXAMPLES.format("llama3-eval"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--responses-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judge-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judgements-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, responses_dir: Path, judge_dir: Path, judgements_dir: Path) -> None:
    """Let a language model grade the responses of the finetuned and the base model."""
    with running("llama3-eval", params_path, sections=["llama3_eval"]) as run:
        params = run.load(LlamaEvalParams, "llama3_eval")
        tasks = load_tasks(responses_dir, params)
        judge_params = read_judge_params(judge_dir)
        judge = open_judge(judge_params, judge_dir, params)
        responses_digest = files.digest(responses_dir)
        run.tracker.dataset(
            "responses",
            digest=responses_digest,
            source=responses_dir,
            context="evaluation",
            rows=len(tasks),
        )
        run.tracker.begin()
        log = log_path(run.runs / "llama3-eval", judge, responses_digest)
        judged = judge_all(tasks, judge, log)
        summary = summarise(judged, params)

        rows = [asdict(judgement) for judgement in judged]
        facts = {"judge": judge.digest, **judge_params.origin, **judge.options}
        with files.new_directory(judgements_dir, facts) as new:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.write_text(new / "judgements.jsonl", "".join(lines))
        bins = histogram_rows(judged)
        files.write_text(HISTOGRAM, histogram_csv(bins))
        run.tracker.table(rows, "judgements.json")
        run.tracker.figure(histogram_figure(bins), "llama3_eval_scores.png")
        run.metrics({**summary, "judge_digest": judge.digest})
        clear_logs(log)
        click.echo(in_words(summary, params.min_control_auc))


if __name__ == "__main__":
    as_program(main)
