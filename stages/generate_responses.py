"""Stage ``generate-responses``: the finetuned and the base model answer the test records."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.core import files
from gpt2.core.device import choose_runtime
from gpt2.data.instructions import load_records
from gpt2.evaluation.responses import choose_records, length_figure, plot, score_by_kind
from gpt2.inference.responses import GenerateResponsesParams, answer
from gpt2.pipeline.stage import EXAMPLES, as_program, running

if TYPE_CHECKING:
    pass

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
        asked = choose_records(records, params.max_records, params.seed)
        run.tracker.tags({"device": str(choose_runtime(params).device)})
        run.tracker.dataset(
            "instructions/test",
            digest=digest,
            source=instructions_file,
            context="test",
            rows=len(asked),
        )
        run.tracker.begin()
        answers = {
            "finetuned": answer(finetuned_model_dir, asked, params, "finetuned"),
            "base": answer(base_model_dir, asked, params, "base"),
        }

        rows = [
            {
                "id": index,
                "kind": record.kind,
                "input": record.input,
                "reference": record.output,
                **{model: texts[index] for model, texts in answers.items()},
                "name": record.name,
                "instruction": record.instruction,
            }
            for index, record in enumerate(asked)
        ]
        by_kind = score_by_kind(records, asked, answers)
        with files.new_directory(responses_dir, {"params": params.model_dump()}) as new:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.write_text(new / "responses.jsonl", "".join(lines))
        files.write_text(PLOT, plot(by_kind))
        run.tracker.table(rows, "responses.json")
        texts = {"reference": [record.output for record in asked], **answers}
        run.tracker.figure(length_figure(texts), "response_lengths.png")
        run.metrics({"n_records": len(rows), "by_kind": by_kind})


if __name__ == "__main__":
    as_program(main)
