"""Print the results of the pipeline on one screen: ``python -m scripts.summary``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import stages  # noqa: F401  puts src/ on the path
from gpt2.core.streams import standard_streams
from gpt2.pipeline.stage import WITH_RESULTS

SYSTEMS = ("finetuned", "base", "name_as_words", "most_frequent")


def summary(metrics: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    """Summarize the metrics and time of each stage; stages without metrics are skipped."""
    parts = {
        "pretrain": _pretrain,
        "finetune": _finetune,
        "generate_responses": _responses,
        "llama3_eval": _judge,
    }
    lines = [line for stage in parts if stage in metrics for line in parts[stage](metrics[stage])]
    if "finetune" in metrics:
        lines.append("model         data/models/finetuned (Hugging Face format)")
    return "\n".join([*lines, *_times(seconds), "runs          make ui"])


def _pretrain(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"pretraining   validation loss {metrics['val_loss']:.3f}, "
        f"perplexity {metrics['perplexity']:.1f}, {metrics['bits_per_byte']:.3f} bits per byte"
    )


def _finetune(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"finetuning    validation loss {metrics['val_loss']:.3f}, "
        f"before finetuning {metrics['val_loss_before']:.3f}"
    )


def _responses(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "answers       chrF / exact match in percent, on the test split"
    yield " " * 14 + "".join(f"{system.replace('_', ' '):>16}" for system in SYSTEMS)
    for kind, scores in metrics["by_kind"].items():
        shown = " ".join(kind.split())
        yield f"  {shown:<12}" + "".join(f"{_cell(scores.get(system)):>16}" for system in SYSTEMS)


def _cell(score: Mapping[str, float] | None) -> str:
    return f"{score['chrf']:.1f} / {score['exact_match']:.1f}" if score else "-"


def _judge(metrics: Mapping[str, Any]) -> Iterator[str]:
    trust = "trusted" if metrics["trusted"] else "NOT trusted, its means say nothing about quality"
    yield (
        f"judge         finetuned {metrics['finetuned']['mean']:.1f}, "
        f"base {metrics['base']['mean']:.1f} of 100; {trust} (AUC on controls "
        f"{metrics['control_auc']:.2f})"
    )


def _times(seconds: Mapping[str, float]) -> Iterator[str]:
    each = ", ".join(f"{stage.replace('_', '-')} {time:.0f}" for stage, time in seconds.items())
    yield f"seconds       {each}; total {sum(seconds.values()):.0f}"


def main() -> None:
    """Print the summary of the metrics in the working directory."""
    metrics = _read(Path("metrics"))
    speed = _read(Path("data", "runs", "speed"))
    print(summary(metrics, {stage: values["wall_seconds"] for stage, values in speed.items()}))


def _read(directory: Path) -> dict[str, Any]:
    files = {stage: directory / f"{stage}.json" for stage in WITH_RESULTS}
    return {
        stage: json.loads(file.read_text(encoding="utf-8"))
        for stage, file in files.items()
        if file.exists()
    }


if __name__ == "__main__":
    with standard_streams(needed=True):
        main()
