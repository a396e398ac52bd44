"""Bad input gives one message that names the key or file, status 1, and no half-written output."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpt2.core import files
from scripts.deps import ROOT
from stages import download, finetune, llama3_eval, pretrain, tokenize
from tests import yaml12
from tests.tiny_llama import write_tiny_llama

# The stages' options as in dvc.yaml, with shorter paths.
ARGUMENTS = {
    download: "--corpus-dir corpus --instructions-file instructions.jsonl "
    "--tokenizer-dir raw --judge-dir judge",
    tokenize: "--corpus-dir corpus --raw-tokenizer-dir raw "
    "--tokenizer-dir tokenizer --tokens-dir tokens",
    pretrain: "--tokens-dir tokens --tokenizer-dir tokenizer --model-dir model",
    finetune: "--instructions-file instructions.jsonl --base-model-dir model --model-dir finetuned",
    llama3_eval: "--responses-dir responses --judge-dir judge --judgements-dir judgements",
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A directory with the smoke profile, a small corpus of the user's own, and a tiny judge."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    shutil.copy(ROOT / "profiles" / "smoke.yaml", "params.yaml")
    write_tiny_llama(Path("judge.gguf"))
    Path("corpus.txt").write_text("One line of text.\n" * 50, encoding="utf-8")
    record = '{"instruction": "Add.", "input": "1 and %d", "output": "It is %d."}\n'
    Path("records.jsonl").write_text(
        "".join(record % (n, n + 1) for n in range(100)), encoding="utf-8"
    )
    change("judge.model", {"file": "judge.gguf"})
    change("corpus", {"source": "file", "path": "corpus.txt"})
    held_out = {"validation_fraction": 0.2, "test_fraction": 0.2}
    change("instructions", {"source": "file", "path": "records.jsonl", **held_out})
    return tmp_path


def change(key: str, value: object) -> None:
    params = yaml12.loads(Path("params.yaml").read_text(encoding="utf-8"))
    *sections, last = key.split(".")
    table = params
    for section in sections:
        table = table[section]
    table[last] = value
    Path("params.yaml").write_text(yaml12.dumps(params), encoding="utf-8")


def run(stage) -> Result:
    return CliRunner().invoke(stage.main, ARGUMENTS[stage])


def refused(stage, *parts: str) -> None:
    """The stage says all ``parts`` in one message and leaves nothing half-written."""
    before = set(Path().rglob("*"))
    result = run(stage)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output
    for path in set(Path().rglob("*")) - before:
        if path.is_file() and path.suffix != ".lock":
            files.read_manifest(path.parent)  # an output that was finished before the error


def test_the_fixture_itself_is_good_input():
    assert run(download).exit_code == 0


def test_unknown_key():
    change("pretrain.learning_rate", 0.1)
    refused(pretrain, "params.yaml: pretrain.learning_rate: unknown key")


def test_wrong_type():
    change("pretrain.steps", "many")
    refused(pretrain, "params.yaml: pretrain.steps: Input should be a valid integer")


def test_number_in_quotes():
    change("finetune.lr", "6e-4")
    refused(finetune, "params.yaml: finetune.lr", "Write it without quotes: 0.0006")


def test_vocabulary_larger_than_the_shard_type():
    change("tokenizer.vocab_size", 70_000)
    refused(tokenize, "params.yaml: tokenizer", "vocab_size", "65536")


def test_empty_corpus():
    Path("corpus.txt").write_text("\n \n", encoding="utf-8")
    refused(download, "corpus.txt", "empty")


def test_missing_corpus():
    Path("corpus.txt").unlink()
    refused(download, "corpus.txt", "no such file")


def test_corpus_that_is_not_utf8():
    Path("corpus.txt").write_bytes(b"caf\xe9 au lait")
    refused(download, "corpus.txt", "UTF-8", "3")


def test_every_bad_instruction_record():
    Path("records.jsonl").write_text(
        '{"instruction": "Add."}\n{"output": "3"}\n{"instruction"', encoding="utf-8"
    )
    refused(download, "records.jsonl: 3 problem(s)", "line 1: 'output'", "line 2: 'ins", "line 3: ")


def test_missing_input_of_a_later_stage():
    refused(pretrain, "tokenizer", "dvc repro")


def test_base_model_that_was_not_downloaded():
    with files.new_directory(Path("model"), {"size": "none"}):
        pass
    Path("instructions.jsonl").write_text("", encoding="utf-8")
    refused(finetune, "model: no model was downloaded", "gpt2_weights.size", "finetune.base_model")


def test_missing_judge():
    refused(llama3_eval, "responses", "dvc repro")
