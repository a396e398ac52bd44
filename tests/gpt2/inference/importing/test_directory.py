"""Import of checkpoints in nanoGPT's and llm.c's format, written from models of `transformers`."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from gpt2.cli.main import main
from gpt2.core import files
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from tests.hugging_face import TEXT, VOCABULARY, write_model

MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_bpe([TEXT], VOCABULARY).save(directory)
    return directory


def peer_model(directory: Path, **config: object) -> GPT2LMHeadModel:
    ends = {"bos_token_id": VOCABULARY - 1, "eos_token_id": VOCABULARY - 1}
    shape = {"vocab_size": VOCABULARY, "n_positions": 24, **ends}
    return write_model(directory / "peer", **{**shape, **config})


def linear(peer: GPT2LMHeadModel) -> dict[str, Tensor]:
    """Its tensors under the same names, with matrices in the orientation of `nn.Linear`."""
    return {
        name: tensor.t().contiguous() if name.endswith(MATRICES) else tensor
        for name, tensor in peer.state_dict().items()
    }


def write_nanogpt(
    path: Path, state: dict[str, Tensor], prefix: str = "_orig_mod.", **args: Any
) -> Path:
    """Write a checkpoint like nanoGPT's ``train.py``, with optimizer state and configuration."""
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    checkpoint = {
        "model": named,
        "optimizer": optimizer.state_dict(),
        "model_args": {**SHAPE, "vocab_size": VOCABULARY, "bias": True, "dropout": 0.0, **args},
        "iter_num": 5,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "compile": True, "lr": 6e-4},
    }
    torch.save(checkpoint, path)
    return path


def write_llmc(path: Path, peer: GPT2LMHeadModel, version: int, padded: int = 384) -> Path:
    """Write a model like ``write_model`` in llm.c's ``train_gpt2.py``."""
    config, state = peer.config, {n: t for n, t in linear(peer).items() if n != "lm_head.weight"}
    header = np.zeros(256, "<i4")
    shape = (config.n_positions, config.vocab_size, config.n_layer, config.n_head, config.n_embd)
    header[:8] = [20240326, version, *shape, padded]
    wte = torch.zeros(padded, config.n_embd)
    wte[: config.vocab_size] = state["transformer.wte.weight"]
    of_blocks = [name.removeprefix("transformer.h.0.") for name in state if ".h.0." in name]
    tensors = [wte, state["transformer.wpe.weight"]]
    for name in of_blocks:
        tensors += [state[f"transformer.h.{i}.{name}"] for i in range(config.n_layer)]
    tensors += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    kind = torch.float32 if version == 3 else torch.bfloat16
    content = [t.to(kind).contiguous().view(torch.uint8).numpy().tobytes() for t in tensors]
    path.write_bytes(header.tobytes() + b"".join(content))
    return path


def run(checkpoint: Path, tokenizer: Path, *arguments: object) -> Result:
    output = checkpoint.parent / "out"
    options = ["--output", output, "--tokenizer", tokenizer, *arguments]
    return CliRunner().invoke(main, ["import", *map(str, [checkpoint, *options])])


def refused(checkpoint: Path, tokenizer: Path, *parts: str) -> None:
    before = {path.name for path in checkpoint.parent.iterdir()}
    result = run(checkpoint, tokenizer)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr
    assert {path.name for path in checkpoint.parent.iterdir()} == before


def check(peer: GPT2LMHeadModel, result: Result, output: Path, tolerance: float = 1e-5) -> None:
    """The imported directory has the peer's logits, here and in `transformers`."""
    assert result.exit_code == 0, result.output
    parameters = sum(p.numel() for p in weights.load(output).parameters())
    assert f"{parameters:,} parameters" in result.stderr
    assert "its logits after 24 tokens are those of the file's own tensors" in result.stderr
    assert "Hello, I'm a language model," in result.stderr
    files.read_manifest(output)
    ids = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))
    expected = peer(ids).logits
    ours = weights.load(output).eval()
    theirs = AutoModelForCausalLM.from_pretrained(output).eval()
    for found in (ours(ids), theirs(ids).logits):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    tokenizer = weights.load_tokenizer(output, ours)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpt(tokenizer: Path, tmp_path: Path, prefix: str) -> None:
    peer = peer_model(tmp_path, activation_function="gelu")
    path = write_nanogpt(tmp_path / "ckpt.pt", linear(peer), prefix)
    check(peer, run(path, tokenizer), tmp_path / "out")
    facts = files.read_json(tmp_path / "out" / "training.json")
    assert facts.items() >= {"program": "nanoGPT with exact GELU", "file": "ckpt.pt"}.items()
    assert facts["sha256"] == files.sha256(path)


def test_older_nanogpt_computed_the_tanh_approximation_and_kept_a_mask(
    tokenizer: Path, tmp_path: Path
) -> None:
    peer = peer_model(tmp_path)
    state = linear(peer)
    for layer in range(2):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    path = write_nanogpt(tmp_path / "ckpt.pt", state)
    check(peer, run(path, tokenizer, "--gelu", "tanh"), tmp_path / "out")


def test_nanogpt_without_biases(tokenizer: Path, tmp_path: Path) -> None:
    peer = peer_model(tmp_path, activation_function="gelu")
    for name, parameter in peer.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.zeros_(parameter)
    state = {n: t for n, t in linear(peer).items() if not n.endswith(".bias")}
    path = write_nanogpt(tmp_path / "ckpt.pt", state, bias=False)
    check(peer, run(path, tokenizer), tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "first")
    write_nanogpt(path, state, bias=True)
    refused(path, tokenizer, "model_args.bias is True, but there are no biases")
    del state["transformer.h.1.mlp.c_fc.weight"]
    write_nanogpt(path, state, bias=False)
    refused(path, tokenizer, "h.1.mlp.c_fc.weight: missing")


def test_nanogpt_with_a_padded_vocabulary_and_an_output_layer_of_its_own(
    tokenizer: Path, tmp_path: Path
) -> None:
    config = {"activation_function": "gelu", "vocab_size": 320, "tie_word_embeddings": False}
    peer = peer_model(tmp_path, **config)
    path = write_nanogpt(tmp_path / "ckpt.pt", linear(peer), vocab_size=320)
    check(peer, run(path, tokenizer), tmp_path / "out")


@pytest.mark.parametrize("version", [3, 5])
def test_llmc(tokenizer: Path, tmp_path: Path, version: int) -> None:
    peer = peer_model(tmp_path)
    path = write_llmc(tmp_path / "model.bin", peer, version)
    if version == 5:
        peer = peer.bfloat16().float()
    check(peer, run(path, tokenizer), tmp_path / "out")
    assert weights.load(tmp_path / "out").config.vocab_size == VOCABULARY


def test_an_imported_model_goes_through_the_commands(tokenizer: Path, tmp_path: Path) -> None:
    peer = peer_model(tmp_path)
    result = run(write_llmc(tmp_path / "model.bin", peer, 3), tokenizer)
    assert result.exit_code == 0, result.output
    asked = ["--prompt", "def ", "--max-new-tokens", "5", "--dtype", "float32"]
    done = CliRunner().invoke(main, ["generate", "--model", str(tmp_path / "out"), *asked])
    ids = torch.tensor([Tokenizer.load(tokenizer).encode("def ")])
    continued = peer.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5
    )
    assert done.stdout == Tokenizer.load(tokenizer).decode(
        [i for i in continued[0, ids.shape[1] :].tolist() if i != VOCABULARY - 1]
    )
    again = run(tmp_path / "model.bin", tokenizer)
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)


def test_an_invalid_nanogpt_checkpoint_is_named(tokenizer: Path, tmp_path: Path) -> None:
    state = linear(peer_model(tmp_path))
    path = tmp_path / "ckpt.pt"
    cases: list[tuple[dict[str, Tensor], dict[str, Any], str]] = [
        (state, {"use_rmsnorm": True}, "model_args: use_rmsnorm: nanoGPT has no such key"),
        (state, {"n_layer": 3}, "h: 2 layers, expected 3"),
        (state, {"n_head": 3}, "n_embd=16 is not a multiple of n_head=3"),
        (state, {"vocab_size": None}, "model_args.vocab_size"),
        (state, {"block_size": 12}, "wpe.weight: shape (24, 16), expected (12, 16)"),
        (
            {**state, "transformer.h.0.q_norm.weight": torch.ones(8)},
            {},
            "q_norm.weight: unexpected",
        ),
        ({**state, "_orig_mod.lm_head.weight": torch.ones(1)}, {}, "with and without the prefix"),
        ({"transformer.wte.weight": torch.ones(65, 16)}, {"vocab_size": 65}, "single characters"),
        (
            {"transformer.wte.weight": torch.ones(300, 16), "y.weight": torch.tensor(1.0)},
            {},
            "missing",
        ),
        ({**state, "x": 5}, {}, "is not the name of a tensor"),  # type: ignore[dict-item]  # wrong
    ]
    for tensors, args, message in cases:
        write_nanogpt(path, tensors, "", **{"bias": len(tensors) > 2, **args})
        refused(path, tokenizer, str(path) if "single" not in message else "", message)
    torch.save(state, path)
    refused(path, tokenizer, "not a checkpoint of nanoGPT, which has model and model_args")
    torch.save([1], path)
    refused(path, tokenizer, "not a checkpoint of nanoGPT")


def test_a_damaged_or_foreign_file_is_named(tokenizer: Path, tmp_path: Path) -> None:
    path = write_nanogpt(tmp_path / "ckpt.pt", linear(peer_model(tmp_path)))
    whole = bytearray(path.read_bytes())
    flipped = whole.copy()
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    refused(path, tokenizer, "damaged")
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04", b"\x80\x02}q\x00."):
        path.write_bytes(content)
        refused(path, tokenizer, "neither a checkpoint of nanoGPT (ckpt.pt) nor a model of llm.c")
    path.unlink()
    refused(path, tokenizer, "no such file")
    refused(tmp_path / "peer", tokenizer, "needs no import")


def test_an_invalid_llmc_file_is_named(tokenizer: Path, tmp_path: Path) -> None:
    path = write_llmc(tmp_path / "model.bin", peer_model(tmp_path), 3)
    whole = path.read_bytes()

    def with_header(*numbers: int) -> bytes:
        old = list(struct.unpack("<8i", whole[:32]))
        return struct.pack("<8i", *numbers, *old[len(numbers) :]) + whole[32:]

    cases = {
        whole[:-4]: "its header wants",
        whole + b"\0": "its header wants",
        whole[:500]: "does not begin with its header",
        with_header(20240326, 1): "version 1 of llm.c's models; 3 and 5 are read",
        with_header(20240527): "the state of an optimizer, not a model",
        with_header(20240520): "tokens to train on, not a model",
        with_header(20240326, 3, -1): "header.context_length",
        with_header(20240326, 3, 24, 2**31 - 1): "padded entries",
        with_header(20240326, 3, 2**31 - 1, 300, 2**31 - 1): "its header wants",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        refused(path, tokenizer, message)


def test_a_tokenizer_of_another_size_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    peer = peer_model(tmp_path, vocab_size=301)
    refused(
        write_llmc(tmp_path / "model.bin", peer, 3),
        tokenizer,
        "the model has 301 tokens, its tokenizer 300",
    )


@pytest.mark.network
def test_without_a_tokenizer_gpt2s_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peer = peer_model(tmp_path, vocab_size=50304, activation_function="gelu")
    write_nanogpt(tmp_path / "ckpt.pt", linear(peer), vocab_size=50304)
    result = CliRunner().invoke(main, ["import", "ckpt.pt", "--output", "out"])
    assert result.exit_code == 0, result.output
    assert Tokenizer.load(tmp_path / "out").encode("Hello, I am") == [15496, 11, 314, 716]
