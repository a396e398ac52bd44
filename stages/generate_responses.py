"""Stage ``generate-responses``: the finetuned and the base model answer the test records."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2 import files, weights
from gpt2.device import DeviceParams, choose_runtime
from gpt2.errors import UserError
from gpt2.generation import generate
from gpt2.instructions import load_records, prompt
from gpt2.params import Positive
from gpt2.progress import Progress
from gpt2.sampling import SamplingParams
from gpt2.sources.package_docs import name_as_words
from gpt2.sources.records import InstructionRecord, sample_records
from gpt2.text_metrics import most_frequent, score
from stages.running import EXAMPLES, as_program, running

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT = Path("plots/generate_responses.csv")
PLOTTED = ("chrf", "rouge_l", "exact_match")


class GenerateResponsesParams(SamplingParams, DeviceParams):
    """How the test records are answered."""

    max_records: Positive | None = None
    """Test records of each kind that are answered; null: all."""
    batch_size: Positive = 32
    """Records answered side by side."""


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


def choose_records(
    records: Sequence[InstructionRecord], max_records: int | None, seed: int
) -> list[InstructionRecord]:
    """The test records, at most ``max_records`` of each kind, drawn by a hash.

    Raises:
        UserError: there is none.
    """
    tests = [record for record in records if record.split == "test"]
    chosen: list[InstructionRecord] = []
    for kind in sorted({record.kind for record in tests}):
        of_kind = [record for record in tests if record.kind == kind]
        chosen += sample_records(of_kind, max_records, seed)
    if not chosen:
        raise UserError("the instructions have no record in the test split; give more records")
    return chosen


def answer(
    model_dir: Path,
    records: Sequence[InstructionRecord],
    params: GenerateResponsesParams,
    name: str,
) -> list[str]:
    """The model's responses: only what is new after the prompt, without space at both ends."""
    model = weights.load(model_dir)
    tokenizer = weights.load_tokenizer(model_dir, model)
    runtime = choose_runtime(params)
    model.to(runtime.device)
    prompts = [tokenizer.encode(prompt(record.instruction, record.input)) for record in records]
    progress = Progress(f"{name} answers", len(prompts), "record")
    responses = generate(
        model,
        prompts,
        params,
        tokenizer.end_of_text,
        runtime,
        params.batch_size,
        progress,
        tokenizer,
    )
    progress.close()
    return [tokenizer.decode(ids).strip() for ids in responses]


def score_by_kind(
    records: Sequence[InstructionRecord],
    asked: Sequence[InstructionRecord],
    answers: dict[str, list[str]],
) -> dict[str, dict[str, Any]]:
    """Metrics of each kind of instruction, for both models and the trivial baselines."""
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({record.kind for record in asked}):
        rows = [i for i, record in enumerate(asked) if record.kind == kind]
        references = [asked[i].output for i in rows]
        trained = [r.output for r in records if r.kind == kind and r.split == "train"]
        hypotheses = {model: [texts[i] for i in rows] for model, texts in answers.items()}
        hypotheses["most_frequent"] = [most_frequent(trained or [""])] * len(rows)
        if kind == "describe":
            hypotheses["name_as_words"] = [name_as_words(asked[i].name) for i in rows]
        table[kind] = {"n": len(rows)} | {
            answerer: score(references, texts) for answerer, texts in hypotheses.items()
        }
    return table


def length_figure(answers: Mapping[str, Sequence[str]]) -> "Figure":
    """How long the texts of each answerer are: a histogram, with the longest 1 % cut off."""
    from matplotlib.figure import Figure

    lengths = {answerer: [len(text) for text in texts] for answerer, texts in answers.items()}
    together = sorted(length for each in lengths.values() for length in each)
    longest = max(together[int(len(together) * 0.99)], 1)
    figure = Figure(figsize=(7, 5), layout="constrained")
    panels = figure.subplots(len(lengths), sharex=True, sharey=True)
    for axes, (answerer, each) in zip(panels, lengths.items(), strict=True):
        axes.hist(each, bins=40, range=(0, longest))
        axes.set_ylabel(answerer)
        axes.grid(alpha=0.3)
    figure.supxlabel("characters in a response")
    return figure


def plot(by_kind: dict[str, dict[str, Any]]) -> str:
    """The scores as CSV, a line for each kind and answerer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "answerer", *PLOTTED])
    for kind, answerers in by_kind.items():
        for answerer, scores in answerers.items():
            if answerer != "n":
                writer.writerow([kind, answerer, *(f"{scores[key]:.2f}" for key in PLOTTED)])
    return text.getvalue()


if __name__ == "__main__":
    as_program(main)
