import json
import logging
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from gpt2.core import progress
from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.tracking.tracker import NullTracker
from gpt2.training.checkpoint import RunDirectory, SharedState
from gpt2.training.curves import curve_rows
from gpt2.training.execution import checkpoint_activations, compiled_features
from gpt2.training.flops import token_flops
from gpt2.training.loss import Evaluation, evaluate, loss_sum
from gpt2.training.outliers import WINDOW
from gpt2.training.params import TrainParams
from gpt2.training.trainer import fit

CONFIG = GPT2Config(vocab_size=50, context_length=12, n_layer=2, n_head=2, n_embd=16)
FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
STEPS = 24


def batch(step: int, rows: int = 4) -> Batch:
    """Sequences with a rule: each token is the one before it plus 7, modulo 50."""
    generator = torch.Generator().manual_seed(1000 + step)
    first = torch.randint(1, 50, (rows, 1), generator=generator)
    ids = (first + 7 * torch.arange(13)) % 50
    return Batch(ids[:, :-1].clone(), ids[:, 1:].clone())


def model(dropout: float = 0.0) -> GPT2:
    torch.manual_seed(3)
    return GPT2(CONFIG.model_copy(update={"dropout": dropout}))


def params(**changes: object) -> TrainParams:
    settings: dict[str, object] = {
        "lr": 1e-2,
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
        "eval_interval": 8,
        "log_interval": 1,
        "checkpoint_interval": 5,
    }
    return TrainParams.model_validate(settings | changes)


def train(directory: Path, net: GPT2, settings: TrainParams, steps: int = STEPS, **options):
    run = RunDirectory(directory, "test", {"params": settings.model_dump(), "steps": steps})
    return fit(
        net,
        steps,
        options.pop("train", lambda step: [batch(step)]),
        lambda: [batch(10_000)],
        settings,
        run,
        NullTracker(),
        **options,
    )


def test_training_learns_and_records_the_whole_curve(tmp_path):
    history = train(tmp_path, model(), params(), steps=200)
    losses = [point["val_loss"] for point in history.evaluations]
    assert losses[0] == pytest.approx(math.log(50), rel=0.02)
    assert losses[-1] < 0.5 * losses[0]
    assert [point["step"] for point in history.evaluations] == list(range(0, 201, 8))
    assert [point["step"] for point in history.curve] == list(range(200))
    assert history.tokens == 200 * 4 * 12
    table = curve_rows(history)
    assert [row["step"] for row in table] == list(range(201))
    speed = {"tokens_per_second", "mfu"}
    assert table[8].keys() == {"step", "loss", "lr", "grad_norm", "val_loss", *speed}
    assert table[WINDOW - 1].keys() - table[8].keys() == {"loss_z", "grad_norm_z"}
    assert all(0 < point["mfu"] < 1 for point in history.curve)
    assert history.mfu == history.flops / history.seconds / history.product_rate


def test_model_flops_are_counted(tmp_path):
    inputs, targets, _ = batch(0)
    targets[0, :6] = IGNORE_INDEX
    history = train(tmp_path / "a", model(), params(), 3, train=lambda _: [Batch(inputs, targets)])
    assert history.flops == pytest.approx(3 * 48 * token_flops(CONFIG, 12, 42 / 48))
    texts = Batch(inputs.view(1, -1), targets.view(1, -1), torch.tensor([12, 12, 12, 6, 6]))
    history = train(tmp_path / "b", model(), params(), 3, train=lambda _: [texts])
    assert history.flops == pytest.approx(3 * 48 * token_flops(CONFIG, 48 / 5, 42 / 48))


def test_an_outlier_stands_out_in_the_curve_and_in_the_progress_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)

    def disturbed(step: int) -> list[Batch]:
        good = batch(step)
        strange = Batch(good.inputs, good.targets.flip(1))
        return [strange if step == 149 else good]

    with caplog.at_level(logging.INFO):
        history = train(tmp_path, model(), params(), 150, train=disturbed)
    assert history.curve[149]["loss_z"] > 5
    assert history.curve[149]["grad_norm_z"] > 3
    # The window holds it and the 127 losses before it.
    losses = [point["loss"] for point in history.curve[-WINDOW:]]
    expected = (losses[-1] - statistics.mean(losses)) / statistics.pstdev(losses)
    assert history.curve[149]["loss_z"] == pytest.approx(expected)
    lines = [line for line in caplog.messages if " of 150 steps" in line]
    speed = r"[\d,]+ tokens/s, MFU \d+ %"
    assert re.search(rf"; loss \d\.\d{{3}}, grad \d+\.\d\d, {speed}$", lines[0])
    z = r"\(z [+-]\d+\.\d\)"
    assert re.search(rf"; loss \d\.\d{{3}} {z}, grad \d+\.\d\d {z}, {speed}$", lines[149])


def test_micro_batches_change_nothing(tmp_path):
    whole, parts = model(), model()
    inputs, targets, _ = batch(0)
    targets[0, 3:] = IGNORE_INDEX  # the two halves then have different numbers of targets
    halves = [Batch(inputs[:2], targets[:2]), Batch(inputs[2:], targets[2:])]
    settings = params()
    train(tmp_path / "a", whole, settings, 3, train=lambda step: [Batch(inputs, targets)])
    train(tmp_path / "b", parts, settings, 3, train=lambda step: halves)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


def test_loss_equals_cross_entropy_of_all_logits_without_ignored_targets():
    net = model()
    inputs, targets, _ = batch(0)
    targets[1, :7] = IGNORE_INDEX
    expected = F.cross_entropy(
        net(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    torch.testing.assert_close(loss_sum(net, Batch(inputs, targets)), expected)


@pytest.mark.parametrize("again", [False, True])
def test_packed_sequences_have_the_loss_and_gradient_of_separate_ones(again):
    net = model()
    if again:
        checkpoint_activations(net)
    inputs, targets, _ = batch(0)
    lengths = [12, 1, 7, 12]
    texts = [
        Batch(inputs[row : row + 1, :length], targets[row : row + 1, :length])
        for row, length in enumerate(lengths)
    ]
    together = Batch(
        torch.cat([text.inputs for text in texts], dim=1),
        torch.cat([text.targets for text in texts], dim=1),
        torch.tensor(lengths),
    )
    loss = loss_sum(net, together)
    expected = sum(loss_sum(net, text) for text in texts)
    torch.testing.assert_close(loss, expected)
    parameters = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )


def test_evaluation_has_neither_dropout_nor_autograd_and_restores_the_mode():
    net = model(dropout=0.5).train()
    first = evaluate(net, [batch(0), batch(1, rows=1)], FLOAT32)
    assert first == evaluate(net, [batch(0), batch(1, rows=1)], FLOAT32)
    assert net.training
    assert first.n_tokens == 5 * 12
    assert all(parameter.grad is None for parameter in net.parameters())


def test_evaluation_of_nothing_is_an_error():
    with pytest.raises(UserError, match="validation split has no token"):
        evaluate(model(), [], FLOAT32)


def test_bits_per_byte_do_not_depend_on_the_tokenizer():
    # 100 bytes as 50 tokens of 2 bits, or as 25 tokens of 4 bits: one bit a byte both times.
    assert Evaluation(2 * math.log(2), 50).bits_per_byte(100) == pytest.approx(1)
    assert Evaluation(4 * math.log(2), 25).bits_per_byte(100) == pytest.approx(1)
    assert Evaluation(math.log(7), 1).perplexity == pytest.approx(7)


def test_the_best_weights_are_kept(tmp_path):
    # Wrong targets late in the run: the best evaluation is not the last.
    net = model()

    def spoiled(step: int) -> list[Batch]:
        good = batch(step)
        return [good if step < 40 else Batch(good.inputs, torch.full_like(good.targets, 1))]

    history = train(tmp_path, net, params(), steps=80, train=spoiled, keep="best")
    best = min(point["val_loss"] for point in history.evaluations)
    assert history.best["val_loss"] == best < history.evaluations[-1]["val_loss"]
    assert evaluate(net, [batch(10_000)], FLOAT32).loss == best


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    net = model()

    def poisoned(step: int) -> list[Batch]:
        if step == 2:
            with torch.no_grad():
                net.wte.weight[1, 0] = float("nan")
            before.update({name: t.clone() for name, t in net.state_dict().items()})
        return [batch(step)]

    before: dict[str, torch.Tensor] = {}
    with pytest.raises(UserError, match=r"step 2: loss nan.*stopped before the update"):
        train(tmp_path, net, params(), train=poisoned)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], equal_nan=True)
    assert not list(tmp_path.rglob("step-*")), "weights that are not finite were kept"


def test_a_step_whose_gradient_is_not_finite_can_be_replayed(tmp_path):
    asked: list[int] = []

    def disturbed(step: int) -> list[Batch]:
        asked.append(step)
        if step == 7:
            net.wte.weight.register_hook(lambda gradient: gradient * float("nan"))
        return [batch(step)]

    settings = params(checkpoint_interval=5)
    for first in (0, 7):  # the second run repeats only that step
        asked.clear()
        net = model(dropout=0.1)
        with pytest.raises(
            UserError, match=r"step 7: loss \d.*gradient norm nan.*repeats this step"
        ):
            train(tmp_path / "a", net, settings, train=disturbed)
        assert asked == list(range(first, 8))

    again, undisturbed = model(dropout=0.1), model(dropout=0.1)
    history = train(tmp_path / "a", again, settings)
    assert history.evaluations == train(tmp_path / "b", undisturbed, settings).evaluations
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_batch_without_targets_is_an_error(tmp_path):
    empty = Batch(batch(0).inputs, torch.full_like(batch(0).targets, IGNORE_INDEX))
    with pytest.raises(UserError, match="step 0: no target"):
        train(tmp_path, model(), params(), train=lambda step: [empty])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_trains(tmp_path, dtype):
    history = train(tmp_path, model(), params(dtype=dtype), steps=60)
    assert history.evaluations[-1]["val_loss"] < 0.9 * history.evaluations[0]["val_loss"]


def test_new_lengths_of_packed_sequences_do_not_recompile():
    """Compiled once for the first shape, and once for any length and number of sequences. The
    backend of this test generates no kernels, which would take long."""
    net, compiled = model(), CompileCounterWithBackend("aot_eager")
    features_of = compiled_features(net, backend=compiled)
    counts = []
    for lengths in ([12, 1, 7], [5, 9, 12], [3, 2, 12, 8], [12] * 4, [1, 6, 2]):
        inputs, targets, _ = batch(0, rows=4)
        n = sum(lengths)
        texts = Batch(inputs.view(1, -1)[:, :n], targets.view(1, -1)[:, :n], torch.tensor(lengths))
        torch.testing.assert_close(loss_sum(net, texts, features_of), loss_sum(net, texts))
        counts.append(compiled.frame_count)
    assert counts[3:] == [counts[2]] * 2


@pytest.mark.slow
def test_compiled_training_equals_eager(tmp_path):
    eager, compiled = model(), model()
    a = train(tmp_path / "a", eager, params(compile=False), 5)
    b = train(tmp_path / "b", compiled, params(compile=True), 5)
    for left, right in zip(a.curve, b.curve, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


class Stopped(Exception):
    pass


SCHEDULES = {
    "constant": {"min_lr_fraction": 1.0, "warmup_steps": 3},
    "decay at the end": {"decay_steps": 6, "warmup_steps": 3},
}


def train_shared(
    directory: Path, net: GPT2, settings: TrainParams, steps: int, stop: int | None = None
) -> tuple[list[int], list[dict]]:
    """Train with a shared state. Returns the steps of this process, and the rows of the curve."""
    taken: list[int] = []

    def batches(step: int) -> list[Batch]:
        if step == stop:
            raise Stopped
        taken.append(step)
        return [batch(step)]

    shared = SharedState(directory, "test", {"params": settings.model_dump()})
    history = train(directory, net, settings, steps, train=batches, shared=shared)
    RunDirectory(directory, "test", {"params": settings.model_dump(), "steps": steps}).clear()
    varying = ("tokens_per_second", "mfu")
    rows = [{k: v for k, v in row.items() if k not in varying} for row in curve_rows(history)]
    assert history.tokens == steps * 4 * 12
    return taken, rows


def assert_equal_weights(one: GPT2, other: GPT2) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_steps_end_bit_for_bit_where_an_undisturbed_longer_run_ends(
    tmp_path, caplog, schedule, optimizer
):
    settings = params(
        **SCHEDULES[schedule], optimizer=optimizer, log_interval=3, checkpoint_interval=4
    )
    shared_step = 20 if schedule == "constant" else 14
    whole = model(dropout=0.1)
    _, expected = train_shared(tmp_path / "a", whole, settings, 33)
    assert [row["step"] for row in expected if "loss" in row] == [*range(0, 33, 3), 32]

    taken, _ = train_shared(tmp_path / "b", model(dropout=0.1), settings, 20)
    assert taken == list(range(20))
    with caplog.at_level(logging.INFO):
        with pytest.raises(Stopped):
            train_shared(tmp_path / "b", model(dropout=0.1), settings, 33, stop=30)
        assert f"resuming from step {shared_step} of the run of 20 steps" in caplog.text
        longer = model(dropout=0.1)
        taken, rows = train_shared(tmp_path / "b", longer, settings, 33)
    assert "resuming from the checkpoint at step 28" in caplog.text
    assert taken == list(range(28, 33))
    assert rows == expected
    assert_equal_weights(longer, whole)

    # A third run resumes from the state that the second one saved.
    taken, rows = train_shared(tmp_path / "b", model(dropout=0.1), settings, 40)
    assert taken == list(range(33 if schedule == "constant" else 27, 40))


def test_where_every_learning_rate_depends_on_the_steps_more_of_them_start_afresh(tmp_path, caplog):
    settings = params(warmup_steps=2)
    train_shared(tmp_path, model(), settings, 8)
    with caplog.at_level(logging.INFO):
        taken, _ = train_shared(tmp_path, model(), settings, 12)
    assert taken == list(range(12))
    assert (
        "starting afresh: the run of 8 steps had another learning rate after step 2. A longer run "
        "resumes if the rate is constant (min_lr_fraction: 1) or falls in the last decay_steps only"
    ) in caplog.text
    [kept] = tmp_path.glob("test-shared/*.safetensors")
    assert kept.stat().st_size < 100, "a state that no run resumes from takes disk space"


def test_fewer_steps_or_other_parameters_or_the_same_again_start_afresh(tmp_path, caplog):
    settings = params(min_lr_fraction=1.0)
    train_shared(tmp_path, model(), settings, 8)
    with caplog.at_level(logging.INFO):
        taken, _ = train_shared(tmp_path, model(), settings, 8)  # dvc repro --force
        assert taken == list(range(8))
        assert "afresh" not in caplog.text
        taken, _ = train_shared(tmp_path, model(), params(min_lr_fraction=1.0, lr=0.02), 12)
        assert taken == list(range(12))
        assert "starting afresh: the run of 8 steps had another params.lr\n" in caplog.text
        train_shared(tmp_path, model(), settings, 8)
        taken, _ = train_shared(tmp_path, model(), settings, 5)
    assert taken == list(range(5))
    assert (
        "starting afresh: the run of 8 steps saved its state at step 8, but a run of 5 is the same "
        "only up to step 5"
    ) in caplog.text


def test_a_damaged_shared_state_is_refused(tmp_path):
    settings = params(min_lr_fraction=1.0)
    train_shared(tmp_path, model(), settings, 8)
    path = tmp_path / "test-shared" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"tensors.safetensors: sha256 is"):
        train_shared(tmp_path, model(), settings, 12)


PROGRAM = """
import sys, json, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
from pathlib import Path
from safetensors.torch import save_file
from tests.gpt2.training.test_trainer import model, params, train
directory, delay = Path(sys.argv[1]), float(sys.argv[2])
import time
net = model(dropout=0.1)
settings = params(optimizer="muon", checkpoint_interval=int(sys.argv[3]))

def show_samples(step):
    (directory / "evaluated").touch()
    time.sleep(delay)

history = train(directory, net, settings, 150, keep="best", on_evaluation=show_samples)
save_file(net.state_dict(), directory / "weights.safetensors")
values = [
    [p["step"], p["loss"], p.get("loss_z"), p.get("grad_norm_z")] for p in history.curve
] + [
    [p["step"], p["val_loss"]] for p in history.evaluations
]
(directory / "history.json").write_text(json.dumps(values))
"""


def run_program(
    directory: Path, delay: float, checkpoint_interval: int = 10
) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    paths = os.pathsep.join([".", "src"])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), str(delay), str(checkpoint_interval)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def test_a_killed_run_ends_bit_for_bit_where_an_undisturbed_one_ends(tmp_path):
    undisturbed = run_program(tmp_path / "a", 0)
    killed = run_program(tmp_path / "b", 0.7)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "b").glob("test-*/step-00000010")):
        assert killed.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert run_program(tmp_path / "b", 0).wait() == 0
    assert undisturbed.wait() == 0

    assert_same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_a_checkpoint_of_its_last_step(tmp_path, number):
    undisturbed = run_program(tmp_path / "a", 0)
    stopped = run_program(tmp_path / "b", 0.7, checkpoint_interval=10**6)
    deadline = time.monotonic() + 60
    while not (tmp_path / "b" / "evaluated").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped.send_signal(number)
    assert stopped.wait() != 0
    assert [path.name for path in (tmp_path / "b").glob("test-*/step-*")] == ["step-00000001"]
    assert run_program(tmp_path / "b", 0, checkpoint_interval=10**6).wait() == 0
    assert undisturbed.wait() == 0
    assert_same_end(tmp_path / "a", tmp_path / "b")


def assert_same_end(one: Path, other: Path) -> None:
    a, b = (load_file(directory / "weights.safetensors") for directory in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    histories = [json.loads((directory / "history.json").read_text()) for directory in (one, other)]
    assert histories[0] == histories[1]
    assert histories[0][149][0] == 149 and histories[0][149][2] is not None  # it has z-scores


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_activation_checkpointing_changes_no_result(tmp_path, dropout):
    plain, thrifty = model(dropout), model(dropout)
    a = train(tmp_path / "a", plain, params(), 5)
    b = train(tmp_path / "b", thrifty, params(activation_checkpointing=True), 5)
    assert [p["loss"] for p in a.curve] == [p["loss"] for p in b.curve]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, thrifty.state_dict()[name]), name


def test_without_grad_clip_gradients_are_not_clipped(tmp_path):
    free, loose = model(), model()
    train(tmp_path / "a", free, params(grad_clip=None), 5)
    train(tmp_path / "b", loose, params(grad_clip=1e9), 5)
    clipped = model()
    train(tmp_path / "c", clipped, params(grad_clip=1e-3), 5)
    assert torch.equal(free.wte.weight, loose.wte.weight)
    assert not torch.equal(free.wte.weight, clipped.wte.weight)
