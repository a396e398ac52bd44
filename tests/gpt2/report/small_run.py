"""The files of a small finished run, with figures that are easy to recognise."""

import json
from pathlib import Path
from typing import Any

from gpt2.core import files
from gpt2.pipeline.stage import WITH_RESULTS

STAGES = WITH_RESULTS
PARAMS = {
    "profile": "tiny",
    "finetune": {"lr": 0.002, "prompts": ["a", "b"]},
    "generate_responses": {"max_records": None},
    "llama3_eval": {"min_control_auc": 0.85},
}


def score(chrf: float) -> dict[str, float]:
    return {"chrf": chrf, "rouge_l": chrf / 2, "exact_match": chrf / 4}


def graded(n: int, mean: float) -> dict[str, float]:
    return {"n_total": n, "scored": n, "invalid": 0, "error": 0, "mean": mean, "median": mean}


def metrics(trusted: bool = False) -> dict[str, Any]:
    """The content of the metrics files, by stage."""
    return {
        "download": {
            "documents": 4321,
            "characters": 98765,
            "instructions": {"describe": {"train": 700, "test": 77}},
        },
        "tokenize": {"vocab_size": 512, "train": {"tokens": 12345678}, "bytes_per_token": 3.217},
        "pretrain": {
            "val_loss": 3.1416,
            "perplexity": 23.14,
            "bits_per_byte": 1.4142,
            "parameters": 4270000,
            "train_tokens": 1950000,
        },
        "download_gpt2_weights": {"size": "none"},
        "finetune": {
            "val_loss": 2.7183,
            "val_loss_before": 4.6692,
            "train_records": 9801,
            "train_tokens": 1240000,
        },
        "generate_responses": {
            "n_records": 40,
            "by_kind": {
                "describe": {
                    "n": 20,
                    "finetuned": score(31.4),
                    "base": score(9.2),
                    "most_frequent": score(12.4),
                    "name_as_words": score(25.6),
                },
                "name": {"n": 20, "finetuned": score(17.6), "base": score(5.6)},
            },
        },
        "llama3_eval": {
            "finetuned": graded(20, 61.7),
            "base": graded(20, 43.3),
            "reference": graded(10, 88.8 if trusted else 33.3),
            "shuffled": graded(10, 11.1 if trusted else 77.7),
            "difference": {"mean": 18.4, "low": 7.3, "high": 29.1},
            "control_auc": 0.97 if trusted else 0.31,
            "trusted": trusted,
        },
    }


def responses() -> list[dict[str, Any]]:
    """40 responses, half of them of each kind; the finetuned model is right in every fifth."""
    return [
        {
            "id": id,
            "kind": ("describe", "name")[id % 2],
            "instruction": "What does it do?",
            "input": f"def f{id}()",
            "name": f"m.f{id}",
            "reference": f"It does {id * 13}.",
            "finetuned": f"It does {id * 13}." if id % 5 == 0 else f"They make {id * 7}.",
            "base": "the " * (id % 9),
        }
        for id in range(40)
    ]


def judgements(shift: int = 0) -> list[dict[str, Any]]:
    """Judgements of the first 20 responses and of controls."""
    counts = {"finetuned": 20, "base": 20, "reference": 10, "shuffled": 10}
    return [
        {
            "id": id,
            "kind": ("describe", "name")[id % 2],
            "variant": variant,
            "status": "scored",
            "score": (id * 17 + len(variant)) % 80 + shift,
            "reply": "",
            "error": None,
            "prompt": "",
        }
        for variant, count in counts.items()
        for id in range(count)
    ]


def write_rows(directory: Path, name: str, rows: list[dict[str, Any]], **facts: object) -> None:
    with files.new_directory(directory, facts) as new:
        files.write_text(new / name, "".join(json.dumps(row) + "\n" for row in rows))


def write_params(place: Path, **changed: object) -> None:
    """``params.yaml`` with changed sections."""
    files.write_json(place / "params.yaml", PARAMS | changed)  # JSON is YAML


def write_run(place: Path, trusted: bool = False, **changed: object) -> None:
    """All files of a run in ``place``; ``changed`` replaces sections of the parameters."""
    write_params(place, **changed)
    for stage, values in metrics(trusted).items():
        files.write_json(place / "metrics" / f"{stage}.json", values)
        files.write_json(place / "data/runs/speed" / f"{stage}.json", {"wall_seconds": 12.3})
    training = {"wall_seconds": 345.6, "tokens_per_second": 5432.1, "peak_memory_mib": 777.7}
    files.write_json(place / "data/runs/speed/pretrain.json", training)
    for stage in ("pretrain", "finetune"):
        rows = [f"{s},{5 - s / 50},0.001,1.5,{5 if s % 50 == 0 else ''}\n" for s in range(101)]
        files.write_text(
            place / "plots" / f"{stage}.csv", "step,loss,lr,grad_norm,val_loss\n" + "".join(rows)
        )
    write_rows(place / "data/responses", "responses.jsonl", responses())
    write_rows(place / "data/judgements", "judgements.jsonl", judgements(), judge="digest")
