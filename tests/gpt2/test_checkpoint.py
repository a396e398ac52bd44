import logging
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint import RunDirectory, code_digest, differences, pack, unpack
from gpt2.errors import UserError
from gpt2.model import GPT2, GPT2Config
from gpt2.optim import OptimizerParams, make_optimizers

CONFIG = GPT2Config(vocab_size=20, context_length=8, n_layer=1, n_head=2, n_embd=8)


def directory(root: Path, lr: float = 0.1) -> RunDirectory:
    return RunDirectory(root, "pretrain", {"params": {"lr": lr, "model": {"n_layer": 2}}})


def step(model: GPT2, optimizers: list[torch.optim.Optimizer]) -> None:
    model(torch.randint(20, (2, 8))).logsumexp(-1).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_packed_goes_on_as_if_nothing_had_happened(optimizer):
    params = OptimizerParams(lr=0.01, optimizer=optimizer)
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    optimizers = make_optimizers(model, params)
    step(model, optimizers)
    saved = {name: tensor.clone() for name, tensor in pack(model, optimizers).items()}
    step(model, optimizers)

    other = GPT2(CONFIG)
    fresh = make_optimizers(other, params)
    unpack(saved, other, fresh)
    step(other, fresh)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_last_checkpoint_is_kept_and_comes_back(tmp_path):
    run = directory(tmp_path)
    run.save(1, {"note": "old"}, {"x": torch.ones(2)})
    run.save(2, {"note": "new"}, {"x": torch.zeros(3)})
    assert [path.name for path in run.path.iterdir()] == ["step-00000002"]
    loaded = run.load()
    assert loaded is not None
    state, tensors = loaded
    assert (state["step"], state["note"]) == (2, "new")
    assert torch.equal(tensors["x"], torch.zeros(3))
    run.clear()
    assert run.load() is None


def test_a_stale_checkpoint_is_not_used_and_the_log_names_the_key(tmp_path, caplog):
    directory(tmp_path, lr=0.1).save(7, {}, {"x": torch.ones(1)})
    with caplog.at_level(logging.INFO):
        assert directory(tmp_path, lr=0.2).load() is None
    assert "step 7 has another params.lr" in caplog.text
    # Setting the value back finds it again.
    assert directory(tmp_path, lr=0.1).load() is not None


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run = directory(tmp_path)
    run.save(1, {}, {"x": torch.ones(100)})
    path = run.path / "step-00000001" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"tensors.safetensors: sha256 is"):
        run.load()


def test_differences_are_dotted_keys():
    old = {"params": {"lr": 1, "model": {"n_layer": 2}}, "code": "a"}
    new = {"params": {"lr": 1, "model": {"n_layer": 3, "n_head": 1}}, "code": "b"}
    assert differences(old, new) == ["code", "params.model.n_head", "params.model.n_layer"]


def test_code_digest_is_of_our_sources():
    assert len(code_digest()) == 64
    assert code_digest() == code_digest()
