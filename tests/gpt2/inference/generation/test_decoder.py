"""The decoder compared with the model: logits, shared parameters, no synchronisation."""

from copy import deepcopy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.core.device import Runtime
from gpt2.inference.generation.decoder import SLOT_MULTIPLE, CapturedStep, Decoder
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.kv_cache import CacheView

CONFIG = GPT2Config(vocab_size=61, context_length=40, n_layer=2, n_head=2, n_embd=32)
RUNTIME = Runtime(torch.device("cpu"), torch.float32)
BFLOAT16 = Runtime(torch.device("cpu"), torch.bfloat16)


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(1)
    model = GPT2(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("runtime", [RUNTIME, BFLOAT16])
def test_a_decoder_computes_what_the_model_does(model, runtime):
    ids = torch.randint(60, (1, 20), generator=torch.Generator().manual_seed(2))
    decoder = Decoder(model, runtime)
    cache = decoder.cache(3, 20)
    before = CacheView(cache, torch.arange(19)[None], first_row=2)
    decoder.features(ids[:, :19], before)
    cache.move(2, 1)
    last = CacheView(cache, torch.tensor([[19]]), first_row=1)
    with torch.no_grad(), runtime.autocast():
        expected = model.eval()(ids)[:, -1].float()
    found = decoder.next_logits(ids[:, 19:], last).float()
    rounding = 1e-5 if runtime is RUNTIME else 0.03
    assert (found - expected).abs().max() <= rounding * expected.abs().max()


def test_another_activation_needs_no_change_of_the_decoder(model):
    other = deepcopy(model).eval()
    for block in other.h:
        block.mlp.activation = torch.nn.Tanh()
    ids = torch.tensor([[5, 9, 2]])
    decoder = Decoder(other, RUNTIME)
    view = CacheView(decoder.cache(1, 3), torch.arange(3)[None])
    found = decoder.features(ids, view)
    with torch.no_grad():
        torch.testing.assert_close(found, other.features(ids), rtol=1e-4, atol=1e-4)
        assert (found - model.eval().features(ids)).abs().max() > 0.1


def test_a_decoder_shares_other_parameters_and_leaves_the_model_unchanged(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    decoder = Decoder(model.train(), BFLOAT16)
    assert decoder.model.wte.weight.data_ptr() == model.wte.weight.data_ptr()
    assert model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


class Operations(TorchDispatchMode):
    """Records the names of the operations that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_a_step_that_a_gpu_captures_never_waits_for_it(model):
    step = CapturedStep(Decoder(model, RUNTIME), 3, 20)
    with torch.no_grad(), Operations() as seen:
        step._logits(SLOT_MULTIPLE)
    assert "index_put_" in seen.names
    assert not seen.names & {"_local_scalar_dense", "nonzero", "masked_select", "equal"}
