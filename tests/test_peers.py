"""What people measure a language model with, unpatched, on a model directory of ours.

For the model's own numbers in `transformers` see tests/gpt2/test_weights.py, for llama.cpp
tests/gpt2/test_export.py.
"""

import inspect
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2.core.device import Runtime
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.loss import evaluate
from tests import yaml12

CONTEXT = 32
DOCUMENTS = [inspect.getdoc(thing) or "" for thing in (statistics, statistics.mean)]
DOCUMENTS.append("Shorter than the context: naïve, 日本語, 🙂.")


def rolling_windows(ids: list[int], end_of_text: int) -> list[Batch]:
    """Each token of a document once, after as many others as fit; the first after the end token.

    Only the last window is not full by itself, so it begins earlier, and counts the rest alone.
    """
    stream = torch.tensor([[end_of_text, *ids]])
    windows = []
    for start in range(0, len(ids), CONTEXT):
        stop = min(start + CONTEXT, len(ids))
        first = max(0, stop - CONTEXT)
        targets = stream[:, first + 1 : stop + 1].clone()
        targets[:, : start - first] = IGNORE_INDEX
        windows.append(Batch(stream[:, first:stop], targets))
    return windows


def lm_eval(model_dir: Path, task: dict[str, object], directory: Path) -> dict[str, object]:
    """What the command line of lm-eval finds, with nothing of ours and no network."""
    (directory / "tasks").mkdir()
    (directory / "tasks" / "task.yaml").write_text(yaml12.dumps(task))
    caches = {name: str(directory / name) for name in ("HF_HOME", "HF_DATASETS_CACHE")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model_dir},dtype=float32", "--batch_size", "4"]
    command += ["--tasks", str(task["task"]), "--include_path", str(directory / "tasks")]
    command += ["--output_path", str(directory / "results")]
    process = subprocess.run(
        command, env=os.environ | caches | offline, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    (results,) = (directory / "results").rglob("results_*.json")
    found: dict[str, object] = json.loads(results.read_text())["results"][task["task"]]
    return found


def test_lm_eval_finds_our_perplexity(tmp_path: Path) -> None:
    tokenizer = train_bpe(DOCUMENTS, 400)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    torch.manual_seed(0)
    shape = {"context_length": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = GPT2(GPT2Config(vocab_size=tokenizer.n_vocab, **shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(
        model, tmp_path / "model", tmp_path / "tokenizer", tokenizer.end_of_text, training={}
    )
    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    metrics = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    task = {
        "task": "local_text",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": metric} for metric in metrics],
    }
    found = lm_eval(tmp_path / "model", task, tmp_path)

    batches = [
        batch
        for text in DOCUMENTS
        for batch in rolling_windows(tokenizer.encode(text), tokenizer.end_of_text)
    ]
    ours = evaluate(model, batches, Runtime(torch.device("cpu"), torch.float32))
    n_bytes = sum(len(text.encode()) for text in DOCUMENTS)
    bits_per_byte = ours.bits_per_byte(n_bytes)
    bits_per_word = bits_per_byte * n_bytes / sum(len(text.split()) for text in DOCUMENTS)
    expected = (2**bits_per_word, 2**bits_per_byte, bits_per_byte)
    for metric, value in zip(metrics, expected, strict=True):
        assert found[f"{metric},none"] == pytest.approx(value, rel=1e-5), metric
