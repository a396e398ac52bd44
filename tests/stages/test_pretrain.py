"""Pretraining from the weights of a checkpoint that ``transformers`` has written."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from gpt2.core import files
from gpt2.core.yaml_files import load_yaml
from gpt2.data.shards import Tokens
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.windows import evaluation_batches
from scripts.deps import ROOT
from stages import download_gpt2_weights, pretrain, tokenize
from tests import yaml12
from tests.hugging_face import write_checkpoint

MODEL, OUTPUT = Path("data/models/gpt2"), Path("data/models/pretrained")
SHAPE = {"context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1}
TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n\n")
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus without a tokenizer, as the stage `download` writes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with files.new_directory(Path("raw")):
        pass
    with files.new_directory(Path("corpus")) as new:
        lines = [json.dumps({"name": str(i), "text": text}) for i, text in enumerate(TEXTS)]
        (new / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_params(kind: dict[str, Any] | None = None, **settings: Any) -> None:
    params = load_yaml(ROOT / "profiles" / "smoke.yaml")
    params["tokenizer"] = kind or {"kind": "model"}
    params["gpt2_weights"] |= {"size": "any", "source": "directory", "path": "own"}
    params["pretrain"] |= {"initial_weights": str(MODEL), "model": SHAPE, "device": "cpu"}
    params["pretrain"] |= {"dtype": "float32", "steps": 6, "warmup_steps": 0, **settings}
    Path("params.yaml").write_text(yaml12.dumps(params), encoding="utf-8")


def import_model(**config: Any) -> GPT2LMHeadModel:
    """Import the user's checkpoint with the stage that does so."""
    peer = write_checkpoint(Path("own"), **config)
    write_params()
    done = CliRunner().invoke(download_gpt2_weights.main, ["--model-dir", str(MODEL)])
    assert done.exit_code == 0, done.output
    return peer


def run_tokenize(initial_weights: Path = MODEL) -> Result:
    places = "--corpus-dir corpus --raw-tokenizer-dir raw --tokenizer-dir tokenizer"
    weights = f"--tokens-dir tokens --initial-weights {initial_weights}"
    return CliRunner().invoke(tokenize.main, f"{places} {weights}")


def run_pretrain() -> Result:
    places = f"--tokens-dir tokens --tokenizer-dir tokenizer --initial-weights {MODEL}"
    return CliRunner().invoke(pretrain.main, f"{places} --model-dir {OUTPUT}")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_starts_from_the_weights_and_the_vocabulary_of_a_model(optimizer: str) -> None:
    peer = import_model()
    write_params(optimizer=optimizer)
    assert run_tokenize().exit_code == 0
    assert Tokenizer.load(Path("tokenizer")).files == Tokenizer.load(MODEL).files
    done = run_pretrain()
    assert done.exit_code == 0, done.output

    # The loss before the first step is that of the peer in windows of the shorter context.
    validation = Tokens.open(Path("tokens"), "validation")
    total = 0.0
    with torch.no_grad():
        for batch in evaluation_batches(validation, 32, 8):
            logits = peer(batch.inputs).logits.flatten(0, 1)
            total += torch.nn.functional.cross_entropy(
                logits, batch.targets.flatten(), reduction="sum"
            ).item()
    header, first, *_ = Path("plots/pretrain.csv").read_text(encoding="utf-8").splitlines()
    before = float(first.split(",")[header.split(",").index("val_loss")])
    assert before == pytest.approx(total / (len(validation) - 1), abs=1e-4)
    assert files.read_json(Path("metrics/pretrain.json"))["val_loss"] < before

    facts = files.read_json(OUTPUT / "training.json")
    assert facts["parent"] == files.digest(MODEL)
    made = AutoModelForCausalLM.from_pretrained(OUTPUT)
    assert made.config.n_positions == 32
    moved = (made.transformer.wpe.weight - peer.transformer.wpe.weight[:32]).abs().max()
    assert 0 < moved < 0.5  # small changes: it is still that model


def test_random_weights_have_no_parent() -> None:
    write_params({"kind": "bpe", "vocab_size": 300}, initial_weights="none")
    assert run_tokenize(Path("none")).exit_code == 0
    places = "--tokens-dir tokens --tokenizer-dir tokenizer --initial-weights none"
    done = CliRunner().invoke(pretrain.main, f"{places} --model-dir {OUTPUT}")
    assert done.exit_code == 0, done.output
    assert "parent" not in files.read_json(OUTPUT / "training.json")


@pytest.mark.parametrize(
    ("changed", "written"),
    [
        ({"n_layer": 3}, "context_length: 64, n_layer: 2, n_head: 2, n_embd: 16, dropout: 0.1"),
        ({"n_head": 4}, "n_head: 2"),
        ({"n_embd": 32}, "n_embd: 16"),
        ({"context_length": 65}, "context_length: 64"),
    ],
)
def test_another_shape_is_refused_with_the_line_to_write(
    changed: dict[str, int], written: str
) -> None:
    import_model()
    assert run_tokenize().exit_code == 0
    write_params(model=SHAPE | changed)
    done = run_pretrain()
    assert done.exit_code == 1
    assert "pretrain.model: not the shape of pretrain.initial_weights" in done.output
    assert written in done.output
    assert not OUTPUT.exists()


def test_another_vocabulary_is_refused() -> None:
    import_model()
    for kind in ({"kind": "bpe", "vocab_size": 300}, {"kind": "gpt2"}):
        write_params(kind)
        Tokenizer.load(MODEL)
        with files.new_directory(Path("raw")) as new:  # GPT-2's would have other merges, too
            files.write_text(new / "vocab.json", Tokenizer.load(MODEL).files["vocab.json"] + "\n")
            files.write_text(new / "merges.txt", Tokenizer.load(MODEL).files["merges.txt"])
        done = run_tokenize()
        assert done.exit_code == 1
        assert f"tokenizer.kind: {kind['kind']}" in done.output
        assert "pretrain.initial_weights" in done.output
        assert not Path("tokens").exists()


def test_the_same_vocabulary_may_be_named_gpt2() -> None:
    import_model()
    write_params({"kind": "gpt2"})
    with files.new_directory(Path("raw")) as new:
        Tokenizer.load(MODEL).save(new)
    assert run_tokenize().exit_code == 0


def test_tokens_of_another_vocabulary_are_refused() -> None:
    import_model()
    write_params({"kind": "bpe", "vocab_size": 310}, initial_weights="none")
    assert run_tokenize(Path("none")).exit_code == 0
    write_params()
    done = run_pretrain()
    assert done.exit_code == 1
    assert "not of the vocabulary of data/models/gpt2. Run: dvc repro tokenize" in done.output


def test_a_model_that_is_not_there_is_refused() -> None:
    write_params()
    with files.new_directory(MODEL, {"size": "none"}):
        pass
    done = run_tokenize()
    assert done.exit_code == 1
    assert "no model was downloaded there. Set gpt2_weights.size" in done.output
    write_params(initial_weights="none")
    done = run_tokenize(Path("none"))
    assert "tokenizer.kind: model, but pretrain.initial_weights is none" in done.output
