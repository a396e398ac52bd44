import math

import pytest
import torch

from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.optim import (
    Muon,
    OptimizerParams,
    lr_factor,
    make_optimizers,
    orthogonalise,
    set_lr,
    stable_steps,
)

CONFIG = GPT2Config(vocab_size=64, context_length=8, n_layer=2, n_head=2, n_embd=16)


def names_by_group(optimizer: torch.optim.Optimizer, model: GPT2) -> list[set[str]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{name_of[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_adamw_decays_matrices_and_embeddings_only():
    model = GPT2(CONFIG)
    [adamw] = make_optimizers(model, OptimizerParams(lr=1e-3, weight_decay=0.3))
    decayed, plain = names_by_group(adamw, model)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert decayed | plain == {name for name, _ in model.named_parameters()}
    assert all(name.endswith("weight") and "ln_" not in name for name in decayed)
    assert all(name.endswith("bias") or "ln_" in name for name in plain)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = GPT2(CONFIG.model_copy(update={"tie_word_embeddings": False}))
    adamw, muon = make_optimizers(model, OptimizerParams(optimizer="muon", lr=1e-3, muon_lr=0.05))
    [matrices] = names_by_group(muon, model)
    assert len(matrices) == 4 * CONFIG.n_layer
    assert all(name.startswith("h.") for name in matrices)
    rest = set.union(*names_by_group(adamw, model))
    assert {"wte.weight", "wpe.weight", "ln_f.weight", "lm_head.weight"} <= rest
    assert matrices | rest == {name for name, _ in model.named_parameters()}
    assert not matrices & rest
    set_lr([adamw, muon], 0.5)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.025)
    assert adamw.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_one_adamw_step_equals_the_formula():
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    [adamw] = make_optimizers(model, OptimizerParams(lr=0.01, weight_decay=0.1))
    before = model.h[0].mlp.c_fc.weight.detach().clone()
    model(torch.arange(8)[None]).logsumexp(-1).sum().backward()
    gradient = model.h[0].mlp.c_fc.weight.grad.clone()
    adamw.step()
    # At the first step the two moments, bias-corrected, are g and g^2.
    expected = before * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(model.h[0].mlp.c_fc.weight.detach(), expected)


def test_schedule_has_linear_warmup_and_cosine_decay():
    factors = [lr_factor(step, 110, 10, 0.1) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.1)
    middle = 10 + 99 / 3
    expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3))
    assert lr_factor(int(middle), 110, 10, 0.1) == pytest.approx(expected)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_schedule_with_decay_steps_stays_at_the_peak_until_they_begin():
    factors = [lr_factor(step, 110, 10, 0.1, 40) for step in range(110)]
    assert factors[:10] == [lr_factor(step, 110, 10, 0.1) for step in range(10)]
    assert set(factors[10:71]) == {1.0}
    assert factors[70:] == [lr_factor(step, 40, 0, 0.1) for step in range(40)]


@pytest.mark.parametrize(
    ("settings", "stable"),
    [
        ({"min_lr_fraction": 1.0, "warmup_steps": 7}, 50),
        ({"decay_steps": 20, "warmup_steps": 7}, 30),
        ({"decay_steps": 60, "warmup_steps": 7}, 7),
        ({"warmup_steps": 7}, 7),
        ({}, 0),
    ],
)
def test_stable_steps_do_not_depend_on_the_number_of_steps(settings, stable):
    params = OptimizerParams(lr=0.1, **settings)
    assert stable_steps(50, params) == stable

    def factors(steps):
        values = (params.warmup_steps, params.min_lr_fraction, params.decay_steps)
        return [lr_factor(step, steps, *values) for step in range(50)]

    for more in (51, 75, 1000):
        same = [a == b for a, b in zip(factors(50), factors(more), strict=True)]
        assert all(same[:stable])
        assert stable == 50 or not all(same[: stable + 2])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (3, 3), (2, 1)])
def test_schedule_of_very_short_runs_is_defined(steps, warmup):
    assert all(0 < lr_factor(step, steps, warmup, 0.1) <= 1 for step in range(steps))


def matrices() -> list[torch.nn.Parameter]:
    """Wide, square and tall ones."""
    torch.manual_seed(0)
    shapes = [(16, 64), (32, 32), (64, 16), (48, 16)]
    return [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]


def test_muon_in_bfloat16_is_pytorchs_bit_for_bit() -> None:
    ours, theirs = matrices(), matrices()
    muon = Muon(ours, lr=0.02, weight_decay=0.1, dtype=torch.bfloat16)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        muon.step()
        peer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(
            muon.state[mine]["momentum_buffer"], peer.state[other]["momentum_buffer"]
        )


def test_muon_in_float32_is_pytorchs_without_the_rounding() -> None:
    ours, theirs = matrices(), matrices()
    muon = Muon(ours, lr=0.02, weight_decay=0.1, dtype=torch.float32)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad.clone()
    before = [matrix.detach().clone() for matrix in ours]
    muon.step()
    peer.step()
    for start, mine, other in zip(before, ours, theirs, strict=True):
        update, rounded = mine - start, other - start
        assert (update - rounded).norm() < 0.02 * update.norm()


@pytest.mark.parametrize("shape", [(16, 64), (32, 32), (64, 16)])
def test_orthogonalised_matrices_keep_their_singular_vectors(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = u * torch.linspace(1, 0.1, len(s)) @ v
    found = orthogonalise(matrix, torch.float64)
    sizes = u.T @ found @ v.T
    assert (sizes - sizes.diag().diag()).abs().max() < 1e-9
    assert sizes.diag().min() > 0.6
    assert sizes.diag().max() < 1.3
    single = orthogonalise(matrix.float(), torch.float32)
    torch.testing.assert_close(single.double(), found, atol=1e-5, rtol=1e-5)


def test_a_matrix_without_a_gradient_is_not_updated() -> None:
    [matrix, *_] = matrices()
    before = matrix.detach().clone()
    Muon([matrix], lr=0.02, weight_decay=0.1, dtype=torch.float32).step()
    assert torch.equal(matrix, before)
