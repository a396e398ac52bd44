"""The data path in less memory than the corpus: download, tokenize, read training windows.

What is limited is anonymous memory (``RssAnon``), which the kernel cannot take back as it can that
of mapped files. ``RLIMIT_DATA`` would also count the gigabyte that pyarrow reserves and leaves
untouched. Small versions, in the default run, stand with the tests of each part.
"""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import click
import pytest

from scripts.deps import ROOT
from tests import yaml12

MIB = 2**20
TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n\n")
]
PARAMS = {
    "corpus": {"source": "file", "path": "corpus.jsonl"},
    "instructions": {"source": "file", "path": "records.jsonl"},
    "tokenizer": {"kind": "bpe", "vocab_size": 8192},
    "judge": {"backend": "llamacpp", "model": {"file": "own.gguf"}},
    "tokenize": {"val_fraction": 0.01, "seed": 123, "shard_tokens": 1_000_000},
}
DATA_PATH = """
import os, sys, threading, time
from pathlib import Path
import torch
from stages import download, tokenize
from gpt2.data.shards import Tokens
from gpt2.data.windows import TrainingWindows

def anonymous():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024

start, limit, growth = anonymous(), int(sys.argv[1]), 0

def watch():
    global growth
    while True:
        growth = max(growth, anonymous() - start)
        if growth > limit:
            print(f"more than {limit:,} bytes", file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
raw = "--corpus-dir=raw/corpus"
places = "--instructions-file=raw/records --tokenizer-dir=raw/tokenizer --judge-dir=raw/judge"
download.main([raw, *places.split()], standalone_mode=False)
places = "--raw-tokenizer-dir=raw/tokenizer --tokenizer-dir=tokenizer --tokens-dir=tokens"
tokenize.main([raw, *places.split()], standalone_mode=False)
windows = TrainingWindows(Tokens.open(Path("tokens"), "train"), 256, 8, seed=1)
for step in range(int(windows.steps_per_epoch) + 2):
    windows(step)
print(growth)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def place(directory: Path, corpus_bytes: int) -> Path:
    """A directory to run the stages in, with a corpus of this size."""
    directory.mkdir()
    written = 0
    with (directory / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number in count():
            text = f"{TEXTS[number % len(TEXTS)]}\n# {number}"
            written += file.write(json.dumps({"text": text}) + "\n")
            if written > corpus_bytes:
                break
    records = ({"instruction": f"Say {n}.", "output": str(n)} for n in range(200))
    (directory / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    (directory / "own.gguf").write_bytes(b"GGUF")
    (directory / "params.yaml").write_text(yaml12.dumps(PARAMS))
    return directory


@pytest.mark.slow
def test_a_corpus_ten_times_larger_than_the_memory_it_may_have(tmp_path: Path) -> None:
    limit = 128 * MIB
    process = subprocess.run(
        [sys.executable, "-c", DATA_PATH, str(limit)],
        cwd=place(tmp_path / "large", 10 * limit),
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "off"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert 0 < int(process.stdout.splitlines()[-1]) < limit
