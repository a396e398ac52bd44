"""The stage on real corpora, from the command line to the shards, and errors in bad ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gpt2.core.files import new_directory, read_json, read_manifest
from gpt2.data.records import unit_hash
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.train_bpe import train_bpe
from stages.tokenize import main
from tests import yaml12

TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n\n")
]
BPE = {"kind": "bpe", "vocab_size": 512}
TOKENIZE = {"val_fraction": 0.2, "seed": 123, "shard_tokens": 10_000}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with new_directory(tmp_path / "raw"):
        pass
    return tmp_path


def corpus(lines: list[str | bytes], **facts: object) -> None:
    with new_directory(Path("corpus"), facts) as new, (new / "documents.jsonl").open("wb") as file:
        for line in lines:
            file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def documents(texts: list[str]) -> list[str | bytes]:
    return [json.dumps({"name": f"n{i}", "text": text}) for i, text in enumerate(texts)]


def run(tokenizer: dict[str, object] = BPE, **changes: object) -> Result:
    sections = {"tokenizer": tokenizer, "tokenize": TOKENIZE | changes}
    Path("params.yaml").write_text(yaml12.dumps(sections), encoding="utf-8")
    places = ["--corpus-dir=corpus", "--raw-tokenizer-dir=raw"]
    return CliRunner().invoke(
        main, [*places, "--tokenizer-dir=tokenizer", "--tokens-dir=tokens"], catch_exceptions=False
    )


def texts_of(split: str) -> list[str]:
    tokens = Tokens.open(Path("tokens"), split)
    text = Tokenizer.load(Path("tokenizer")).decode(tokens.window(0, len(tokens)).tolist())
    return text.split(END_OF_TEXT)[1:]


def test_the_corpus_comes_back_from_the_shards() -> None:
    corpus(documents(TEXTS))
    assert run().exit_code == 0
    train, validation = texts_of("train"), texts_of("validation")
    expected = {"train": [], "validation": []}
    for text in TEXTS:
        expected["validation" if unit_hash(text, 123) < 0.2 else "train"].append(text)
    assert train == expected["train"]
    assert validation == expected["validation"]
    assert 0.1 < len(validation) / len(TEXTS) < 0.3

    metrics = read_json(Path("metrics/tokenize.json"))
    assert metrics["vocab_size"] == 512
    assert metrics["train"]["documents"] == len(train)
    assert metrics["validation"]["text_bytes"] == sum(len(text.encode()) for text in validation)
    assert 1.5 < metrics["bytes_per_token"] < 4
    manifest = read_manifest(Path("tokens"))
    assert manifest["params"]["val_fraction"] == 0.2
    assert manifest["tokenizer"] == Tokenizer.load(Path("tokenizer")).fingerprint
    assert read_manifest(Path("tokenizer"))["kind"] == "bpe"


def test_the_tokenizer_learns_nothing_from_validation_documents() -> None:
    kept = [text for text in TEXTS if unit_hash(text, 123) >= 0.2]
    held_out = "zqzq" * 5000
    held_out += next(str(i) for i in range(100) if unit_hash(held_out + str(i), 123) < 0.2)
    corpus(documents([*kept, held_out]))
    assert run().exit_code == 0
    assert "zq" not in Path("tokenizer/vocab.json").read_text(encoding="utf-8")


def test_two_runs_write_the_same_bytes() -> None:
    corpus(documents(TEXTS))
    manifests = []
    for _ in range(2):
        assert run().exit_code == 0
        manifests.append([read_manifest(Path(name)) for name in ("tokenizer", "tokens")])
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("split", ["position", "auto"])
def test_one_text_is_split_by_position(split: str) -> None:
    text = "\n".join(TEXTS)
    corpus(documents([text]))
    assert run(split=split, val_fraction=0.1).exit_code == 0
    end = int(0.9 * len(text))  # as in the tutorial
    assert texts_of("train") == [text[:end]]
    assert texts_of("validation") == [text[end:]]


def test_long_documents_are_cut() -> None:
    corpus(documents(TEXTS), max_document_tokens=50)
    assert run().exit_code == 0
    tokenizer = Tokenizer.load(Path("tokenizer"))
    train = [text for text in TEXTS if unit_hash(text, 123) >= 0.2]
    lengths = [len(tokenizer.encode(text)) for text in train]
    metrics = read_json(Path("metrics/tokenize.json"))["train"]
    assert metrics["truncated"] == sum(length > 50 for length in lengths) > 0
    assert metrics["tokens"] == sum(1 + min(length, 50) for length in lengths)


def test_gpt2_takes_its_tokenizer_from_the_download() -> None:
    corpus(documents(TEXTS))
    assert run().exit_code == 0
    tokenizer = Tokenizer.load(Path("tokenizer"))
    with new_directory(Path("raw")) as raw:
        tokenizer.save(raw)
    corpus(documents(TEXTS[::2]))
    assert run({"kind": "gpt2"}).exit_code == 0
    assert Tokenizer.load(Path("tokenizer")).fingerprint == tokenizer.fingerprint
    assert read_manifest(Path("tokenizer"))["kind"] == "gpt2"
    Path("raw/merges.txt").write_text("changed", encoding="utf-8")
    result = run({"kind": "gpt2"})
    assert result.exit_code == 1
    assert "raw: damaged.\n  merges.txt: sha256" in result.stderr


GOOD = documents(TEXTS)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "documents.jsonl: no documents"),
        ([*GOOD, b'{"name": "a", "text": "caf\xe9"}'], f"line {len(GOOD) + 1}: Invalid JSON"),
        ([*GOOD[:2], '{"name": "a", "text": ', *GOOD[2:]], "line 3: Invalid JSON"),
        ([*GOOD[:2], "", *GOOD[2:]], "line 3: Invalid JSON"),
        ([*GOOD[:2], '{"name": "a", "text": "\\ud83d"}', *GOOD[2:]], "line 3: Invalid JSON"),
        ([*GOOD[:2], '{"name": "a"}', *GOOD[2:]], "line 3: 'text': Field required"),
        ([*GOOD[:2], '{"name": "a", "text": 5}', *GOOD[2:]], "line 3: 'text': Input should be a"),
    ],
)
def test_bad_corpora(lines: list[str | bytes], message: str, workplace: Path) -> None:
    """One message that names file and line, status 1, no output."""
    corpus(lines)
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert names(workplace) == {"corpus", "raw", "params.yaml", "data"}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_failure_among_the_shards_leaves_the_outputs_as_they_were(workplace: Path) -> None:
    corpus(GOOD)
    assert run().exit_code == 0
    with new_directory(Path("raw")) as raw:
        Tokenizer.load(Path("tokenizer")).save(raw)
    before = [read_manifest(Path(name)) for name in ("tokenizer", "tokens")], names(workplace)
    corpus([*GOOD, "{"])
    # The tokenizer of this kind is not trained, so the bad line is met while shards are written.
    result = run({"kind": "gpt2"}, shard_tokens=1000)
    assert result.exit_code == 1
    assert f"documents.jsonl, line {len(GOOD) + 1}: Invalid JSON" in result.stderr
    after = [read_manifest(Path(name)) for name in ("tokenizer", "tokens")], names(workplace)
    assert after == before


def test_a_split_without_documents() -> None:
    corpus(GOOD)
    result = run(val_fraction=1e-9)
    assert result.exit_code == 1
    assert "no document falls into the validation split. Change tokenize.val_" in result.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_fraction": 0.0}, "tokenize.val_fraction: Input should be greater than 0"),
        ({"val_fraction": 1.0}, "tokenize.val_fraction: Input should be less than 1"),
        ({"shard_tokens": 0}, "tokenize.shard_tokens: Input should be greater than 0"),
        ({"shards": 3}, "tokenize.shards: unknown key"),
        ({"split": "random"}, "tokenize.split: Input should be 'auto', 'hash' or 'position'"),
    ],
)
def test_bad_parameters(changes: dict[str, object], message: str) -> None:
    corpus(GOOD)
    result = run(**changes)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_vocabulary_larger_than_the_shard_type() -> None:
    corpus(GOOD)
    result = run({"kind": "bpe", "vocab_size": 65_537})
    assert result.exit_code == 1
    assert "vocab_size: Input should be less than or equal to 65536" in result.stderr
    assert not Path("tokens").exists()


LETTERS = "".join(random.Random(1).choices("ACGT", k=4_000_000))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", ["training", "encoding"])
def test_a_signal_ends_it_at_once(work: str, number: signal.Signals, workplace: Path) -> None:
    corpus(documents([LETTERS * (1 if work == "training" else 6)]))
    with new_directory(workplace / "raw") as raw:
        train_bpe([LETTERS[:10_000]], 1000).save(raw)
    kind = {"kind": "bpe", "vocab_size": 50_000} if work == "training" else {"kind": "gpt2"}
    Path("params.yaml").write_text(
        yaml12.dumps({"tokenizer": kind, "tokenize": TOKENIZE}), encoding="utf-8"
    )
    arguments = ["--corpus-dir=corpus", "--raw-tokenizer-dir=raw"]
    # A job in the background of a script ignores Ctrl-C, and all that it starts does, too.
    attend = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "stages.tokenize", *arguments),
            *("--tokenizer-dir=tokenizer", "--tokens-dir=tokens"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=attend,
    ) as stage:
        assert stage.stdout and stage.stderr
        assert stage.stdout.readline() == "tokenize: started\n"
        before = {path.name for path in workplace.iterdir()}
        time.sleep(3)
        assert stage.poll() is None
        began = time.monotonic()
        stage.send_signal(number)
        assert stage.wait(timeout=60) == 128 + number
        assert time.monotonic() - began < 5  # less than 1 on a quiet machine
        assert "Traceback" not in stage.stderr.read()
    assert {path.name for path in workplace.iterdir()} == before
