"""Stage ``generate-responses``: the finetuned and the base model answer the test records."""

import json
from pathlib import Path

import click

from gpt2.core import files
from gpt2.core.device import choose_runtime
from gpt2.data.instructions import load_records
from gpt2.evaluation.responses import (
    choose_test_records,
    length_figure,
    response_rows,
    score_by_kind,
    scores_csv,
)
from gpt2.inference.generation.responses import GenerateResponsesParams, answer
from gpt2.pipeline.stage import EXAMPLES, as_program, running

PLOT = Path("plots/generate_responses.csv")


@click.command(epilog=EXAMPLES.format("generate-responses"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--instructions-file", type=click.Path(path_type=Path), required=True)
@click.option("--finetuned-model-dir", type=click.Path(path_type=Path), required=True)
@click.option("--base-model-dir", type=click.Path(path_type=Path), required=True)
@click.option("--responses-dir", type=click.Path(path_type=Path), required=True)
def main(
    params_path: Path,
    instructions_file: Path,
    finetuned_model_dir: Path,
    base_model_dir: Path,
    responses_dir: Path,
) -> None:
    """Answer the test records with the finetuned and the base model, and score the answers."""
    with running("generate-responses", params_path, sections=["generate_responses"]) as run:
        params = run.load(GenerateResponsesParams, "generate_responses")
        digest = files.read_seal(instructions_file)
        records = load_records(instructions_file)
        asked = choose_test_records(records, params.max_records, params.seed)
        runtime = choose_runtime(params)
        run.tracker.tags({"device": str(runtime.device)})
        run.tracker.dataset(
            "instructions/test",
            digest=digest,
            source=instructions_file,
            context="test",
            rows=len(asked),
        )
        run.tracker.begin()
        models = {"finetuned": finetuned_model_dir, "base": base_model_dir}
        answers = {
            name: answer(directory, asked, params, runtime, params.batch_size, name)
            for name, directory in models.items()
        }
        by_kind = score_by_kind(records, asked, answers)

        rows = response_rows(asked, answers)
        with files.new_directory(responses_dir, {"params": params.model_dump()}) as new:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.write_text(new / "responses.jsonl", "".join(lines))
        files.write_text(PLOT, scores_csv(by_kind))
        run.tracker.table(rows, "responses.json")
        texts = {"reference": [record.output for record in asked], **answers}
        run.tracker.figure(length_figure(texts), "response_lengths.png")
        run.metrics({"n_records": len(rows), "by_kind": by_kind})


if __name__ == "__main__":
    as_program(main)
