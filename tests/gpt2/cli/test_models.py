"""`export`, and the errors for directories without a model."""

import shutil

import pytest

from gpt2.data.train_bpe import train_bpe
from tests.gpt2.cli.command import ANSWER, ASKED, run


def test_export_writes_a_gguf_file_and_a_modelfile(smiling, tmp_path):
    from gguf import GGUFReader

    output = tmp_path / "a new place" / "model.gguf"
    arguments = ("export", "--model", smiling, "--to", "gguf", "--output", output)
    result = run(*arguments, "--quantization", "f32")
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    field = GGUFReader(output).fields["general.architecture"]
    assert field.contents() == "gpt2"
    modelfile = output.with_name("Modelfile")
    assert "FROM ./model.gguf" in modelfile.read_text()
    assert f"Now: ollama create model -f '{modelfile}'\n" in result.stderr
    modelfile.unlink()
    assert run(*arguments, "--no-modelfile").exit_code == 0
    assert [path.name for path in output.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    "command", [["generate", "--prompt", "a"], ["chat"], ["export", "--to", "gguf"]]
)
@pytest.mark.parametrize("missing", [None, "config.json", "model.safetensors", "vocab.json"])
def test_a_directory_without_a_model_is_named(smiling, tmp_path, command, missing):
    directory = tmp_path / "model"
    if missing:
        ignored = shutil.ignore_patterns(missing, "manifest.json")
        shutil.copytree(smiling, directory, ignore=ignored)
    output = ["--output", str(tmp_path / "out.gguf")] if "export" in command else []
    result = run(*command, "--model", directory, *output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert str(directory) in result.stderr
    assert (missing or "no config.json and no model.safetensors") in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


def test_a_tokenizer_of_another_model_is_refused(smiling, foreign, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(foreign, directory)
    (directory / "tokenizer.json").unlink()
    train_bpe([ASKED + ANSWER] * 2, 340).save(directory)
    result = run("generate", "--model", directory, "--prompt", "a")
    assert result.exit_code == 1
    assert "the tokenizer has 340 tokens, the model only 330" in result.stderr
