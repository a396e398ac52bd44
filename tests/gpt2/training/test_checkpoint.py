import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gpt2
from gpt2.core.errors import UserError
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training import checkpoint
from gpt2.training.checkpoint import RunDirectory, code_digest, differences, pack, unpack
from gpt2.training.optim import OptimizerParams, make_optimizers

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])}
CONFIG = GPT2Config(vocab_size=20, context_length=8, n_layer=1, n_head=2, n_embd=8)


def directory(root: Path, lr: float = 0.1) -> RunDirectory:
    return RunDirectory(root, "pretrain", {"params": {"lr": lr, "model": {"n_layer": 2}}})


def step(model: GPT2, optimizers: list[torch.optim.Optimizer]) -> None:
    model(torch.randint(20, (2, 8))).logsumexp(-1).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_unpacked_state_continues_as_if_never_interrupted(optimizer):
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


def test_only_the_last_checkpoint_is_kept_and_loaded(tmp_path):
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
    # With the old value the checkpoint is found again.
    assert directory(tmp_path, lr=0.1).load() is not None


@pytest.mark.parametrize(
    ("changed", "named"), [({"tokens": "other"}, "tokens"), ({"code": "other"}, "code")]
)
def test_other_data_and_other_code_are_named_too(tmp_path, caplog, changed, named):
    fingerprint = {"params": {"lr": 0.1}, "tokens": "a", "code": "b"}
    RunDirectory(tmp_path, "pretrain", fingerprint).save(7, {}, {"x": torch.ones(1)})
    with caplog.at_level(logging.INFO):
        assert RunDirectory(tmp_path, "pretrain", fingerprint | changed).load() is None
    assert f"step 7 has another {named}\n" in caplog.text


def test_a_damaged_checkpoint_of_another_run_is_skipped(tmp_path):
    other = directory(tmp_path, lr=0.1)
    other.save(7, {}, {"x": torch.ones(1)})
    (other.path / "step-00000007" / "state.json").write_text("half a fi")
    assert directory(tmp_path, lr=0.2).load() is None


def test_after_a_kill_the_latest_step_counts_whatever_the_clock_says(tmp_path):
    run = directory(tmp_path)
    run.save(10, {}, {"x": torch.ones(1)})
    shutil.copytree(run.path / "step-00000010", tmp_path / "older")
    run.save(20, {}, {"x": torch.zeros(1)})
    # Killed between two renames: both checkpoints are there, and an unfinished one.
    (tmp_path / "older").rename(run.path / "step-00000010")
    os.utime(run.path / "step-00000010", (2e9, 2e9))
    os.utime(run.path / "step-00000020", (0, 0))
    (run.path / ".step-00000030.tmp").mkdir()
    (run.path / ".step-00000030.tmp" / "tensors.safetensors").write_bytes(b"half")
    loaded = run.load()
    assert loaded is not None
    assert loaded[0]["step"] == 20
    run.save(40, {}, {"x": torch.zeros(1)})
    assert [path.name for path in run.path.iterdir()] == ["step-00000040"]


CLEAR = """
import os, shutil, sys
from pathlib import Path
from gpt2.training import checkpoint
from gpt2.training.checkpoint import RunDirectory

def killed(event, arguments):
    if event == "os.rmdir":
        os.kill(os.getpid(), 9)

run = RunDirectory(Path(sys.argv[1]), "pretrain", {})
run.save(1, {}, {})
sys.addaudithook(killed)
run.clear()
"""


def test_a_kill_while_checkpoints_are_deleted_leaves_none_that_is_damaged(tmp_path):
    process = subprocess.run([sys.executable, "-c", CLEAR, str(tmp_path)], env=ENVIRONMENT)
    assert process.returncode == -signal.SIGKILL
    run = RunDirectory(tmp_path, "pretrain", {})
    assert run.load() is None
    run.clear()
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from gpt2.core.locks import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_waiting_for_another_process_is_logged(tmp_path, caplog):
    run = directory(tmp_path)
    lock = run.path.with_suffix(".lock")
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as other:
        other.stdout.readline()

        def end(record: logging.LogRecord) -> bool:
            other.kill()
            return True

        with caplog.at_level(logging.INFO), caplog.filtering(end), run.exclusive():
            assert other.wait() == -signal.SIGKILL
    assert f"waiting for process {other.pid}, " in caplog.text


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


def test_code_digest_covers_the_running_stage_but_no_other(tmp_path, monkeypatch):
    stage, other = tmp_path / "pretrain.py", tmp_path / "finetune.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(stage), raising=False)
    stage.write_text("size = 1\n")
    before = code_digest()
    assert len(before) == 64
    other.write_text("size = 2\n")
    assert code_digest() == before
    stage.write_text("size = 2\n")
    assert code_digest() != before


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("model/gpt2.py", True),
        ("training/trainer.py", True),
        ("data/shards.py", True),
        ("core/device.py", True),
        ("core/progress.py", False),
        ("tracking/__init__.py", False),
        ("pipeline/stage.py", False),
        ("report/page.py", False),
    ],
)
def test_code_digest_covers_the_code_that_decides_a_run(tmp_path, monkeypatch, name, decides):
    package = tmp_path / "gpt2"
    source, compiled = Path(gpt2.__file__).parent, shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, package, ignore=compiled)
    monkeypatch.setattr(checkpoint, "__file__", str(package / "training" / "checkpoint.py"))
    before = code_digest()
    with (package / name).open("a") as code:
        code.write("# changed\n")
    assert (code_digest() != before) == decides
