"""A corpus to token shards: our whole stage, nanoGPT's recipe, and tiktoken with nothing around it.

The text is the documentation of installed packages, repeated up to the size, each time with another
number at the end of every document; the tokenizer a byte pair encoding trained on it once. Nothing
is downloaded.

Ours is the whole of ``stages.tokenize``, from the manifest of ``documents.jsonl`` to that of the
shards. nanoGPT's recipe, written anew from what its ``prepare.py`` does: a shuffled split,
``datasets.map`` over documents with a process for each core (``encode_ordinary``, then
``<|endoftext|>``), and the ids into a memmap of uint16 in 1,024 parts; the data set is loaded
beforehand. Bare tiktoken: forked processes that hold the texts already and encode them to arrays,
of which nothing is kept. Each side is a process of its own, started beforehand; processor time in
the results is without the peers' child processes.
"""

import contextlib
import io
import json
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, child, record, take_turns
from benchmarks.side import Side, serve
from gpt2.core.files import new_directory, read_json
from gpt2.data.sources.package_docs import documented_objects
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from stages import tokenize

OURS, NANOGPT, BARE = "ours", "nanoGPT's recipe", "bare tiktoken"
PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "torch", "sqlalchemy")
PARTS = 1024
CORES = os.cpu_count() or 1
PARAMS = {
    "tokenizer": {"kind": "gpt2"},
    "tokenize": {"val_fraction": 0.01, "seed": 123, "shard_tokens": 4194304},
}
STAGE = (
    *("--corpus-dir=corpus", "--raw-tokenizer-dir=raw"),
    *("--tokenizer-dir=tokenizer", "--tokens-dir=tokens"),
)


@click.command()
@click.option("--sizes", default="10,100", show_default=True, help="Megabytes of corpus: 10,1000.")
@click.option("--largest-peer", default=100, show_default=True, help="Megabytes for nanoGPT.")
@click.option("--quick", is_flag=True, help="2 megabytes, one package.")
@click.option("--side", hidden=True)
@click.option("--place", type=click.Path(path_type=Path), hidden=True)
def main(sizes: str, largest_peer: int, quick: bool, side: str | None, place: Path | None) -> None:
    """Compare megabytes of text per second, at several sizes of the corpus."""
    if place and side == "growth":
        print(json.dumps({"growth": memory_growth(lambda: our_tokens(place))}))
        return
    if place and side:
        call, tokens = SIDES[side](place), list[int]()
        serve(lambda: tokens.append(call()), lambda: {"tokens": tokens[-1]})
        return
    texts = [item.text for item in documented_objects(PACKAGES[: 1 if quick else None], "packages")]
    tokenizer = train_bpe(texts, 1024 if quick else 8192)
    rows = []
    for size in [2] if quick else map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory() as directory:
            rows.append(compare(Path(directory), texts, tokenizer, size, size <= largest_peer))
    record("tokenization", rows, quick=quick)


def compare(
    place: Path, texts: Sequence[str], tokenizer: Tokenizer, megabytes: int, with_nanogpt: bool
) -> Row:
    """All sides on a corpus of ``megabytes``."""
    with new_directory(place / "raw") as raw:
        tokenizer.save(raw)
    (place / "params.yaml").write_text(json.dumps(PARAMS), encoding="utf-8")
    text_bytes = write_corpus(place, texts, megabytes * 10**6)
    names = [name for name in SIDES if name != NANOGPT or with_nanogpt]
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                Side("benchmarks.tokenization", "--side", name, "--place", str(place))
            )
            for name in names
        }
        timings = take_turns(sides, 3 if megabytes <= 100 else 1)
        tokens = {name: side.results[-1]["tokens"] for name, side in sides.items()}
    if len(set(tokens.values())) > 1:
        raise SystemExit(f"the sides have different numbers of tokens: {tokens}")
    growth = child("benchmarks.tokenization", "--side", "growth", "--place", str(place))["growth"]
    seconds = sorted(timings[OURS].clock)[len(timings[OURS].clock) // 2]
    return Row(
        work=f"a corpus of {megabytes} MB to token shards",
        amount=text_bytes / 1e6,
        unit="MB",
        sides=timings,
        goals={NANOGPT: 3.0, BARE: 0.85},
        checks=[f"all sides: {tokens[OURS]:,} tokens, one <|endoftext|> a document among them"],
        figures={
            "corpus, MB": megabytes,
            "ours, ns per token": 1e9 * seconds / tokens[OURS],
            "ours, growth of anonymous memory, MiB": growth / 2**20,
        },
    )


def write_corpus(place: Path, texts: Sequence[str], size: int) -> int:
    """Repeat ``texts`` until the file has ``size`` bytes; the UTF-8 bytes of text in it."""
    written = text_bytes = 0
    with new_directory(place / "corpus") as corpus, (corpus / "documents.jsonl").open("wb") as file:
        for repetition in count():
            for text in texts:
                text = f"{text}\n{repetition}"
                line = json.dumps({"name": str(repetition), "text": text}, ensure_ascii=False)
                written += file.write(line.encode() + b"\n")
                text_bytes += len(text.encode())
                if written >= size:
                    return text_bytes
    raise AssertionError("never reached")


def our_tokens(place: Path) -> int:
    """Run the stage; the tokens that its shards have."""
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        tokenize.main(STAGE, standalone_mode=False)
    splits = read_json(place / "tokens" / "manifest.json")["splits"]
    return sum(split["tokens"] for split in splits.values())


def ours(place: Path) -> Callable[[], int]:
    """Our stage as a function that returns the number of tokens in its shards."""
    return lambda: our_tokens(place)


def nanogpt(place: Path) -> Callable[[], int]:
    """The recipe as a function that returns the number of tokens in its files."""
    import datasets  # type: ignore[import-untyped]  # it has no types

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.load(place / "raw")
    encoding, end_of_text = tokenizer._encoding, tokenizer.end_of_text
    loaded = datasets.load_dataset(
        "json", data_files=str(place / "corpus" / "documents.jsonl"), cache_dir=str(place / "cache")
    )["train"]

    def encoded(document: dict[str, Any]) -> dict[str, Any]:
        ids = encoding.encode_ordinary(document["text"])
        ids.append(end_of_text)
        return {"ids": ids, "len": len(ids)}

    def prepare() -> int:
        total = 0
        with tempfile.TemporaryDirectory(dir=place) as directory:
            splits = loaded.train_test_split(test_size=0.01, seed=2357, shuffle=True)
            mapped = splits.map(
                encoded,
                remove_columns=["name", "text"],
                num_proc=CORES,
                load_from_cache_file=False,
                cache_file_names={name: f"{directory}/{name}.arrow" for name in splits},
            )
            for name, split in mapped.items():
                length = int(np.sum(split["len"], dtype=np.uint64))
                path = f"{directory}/{name}.bin"
                row = np.memmap(path, dtype=np.uint16, mode="w+", shape=(length,))
                filled, parts = 0, min(PARTS, len(split))
                for part in range(parts):
                    shard = split.shard(num_shards=parts, index=part, contiguous=True)
                    ids = np.concatenate(shard.with_format("numpy")["ids"])
                    row[filled : filled + len(ids)] = ids
                    filled += len(ids)
                row.flush()
                total += filled
        return total

    return prepare


def bare(place: Path) -> Callable[[], int]:
    """Encoding alone, as a function that returns the number of tokens."""
    with (place / "corpus" / "documents.jsonl").open("rb") as lines:
        held = [json.loads(line)["text"] for line in lines]
    encoding, size = Tokenizer.load(place / "raw")._encoding, 100

    def encode(start: int) -> int:
        texts = held[start : start + size]
        return sum(1 + len(encoding.encode_to_numpy(t, disallowed_special=())) for t in texts)

    def all_texts() -> int:
        global _forked
        _forked = encode
        with multiprocessing.get_context("fork").Pool(CORES) as pool:
            return sum(pool.imap_unordered(_encode, range(0, len(held), size), chunksize=10))

    return all_texts


_forked: Callable[[int], int]
"""What the forked processes do: they inherit it, texts included."""


def _encode(start: int) -> int:
    return _forked(start)


def memory_growth(call: Callable[[], object]) -> int:
    """Bytes of anonymous memory that this process needs at most while it runs ``call``."""
    start = most = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    call()
    done.set()
    thread.join()
    return most - start


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


SIDES = {OURS: ours, NANOGPT: nanogpt, BARE: bare}


if __name__ == "__main__":
    main()
