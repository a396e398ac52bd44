"""Generation against Hugging Face's, and sampling against the probabilities it should have."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2 import generation
from gpt2.device import Runtime
from gpt2.errors import UserError
from gpt2.generation import (
    Decoder,
    Product,
    RecordedStep,
    SamplingParams,
    generate,
    next_token_probabilities,
    stream,
)
from gpt2.model import GPT2, Block, GPT2Config, Past
from gpt2.weights import from_openai

CONFIG = GPT2Config(vocab_size=61, context_length=40, n_layer=2, n_head=2, n_embd=32)
RUNTIME = Runtime(torch.device("cpu"), torch.float32)
BFLOAT16 = Runtime(torch.device("cpu"), torch.bfloat16)
END = 60
NEVER = -1


@pytest.fixture(scope="module")
def peer() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    peer = GPT2LMHeadModel(
        PeerConfig(
            vocab_size=61, n_positions=40, n_layer=2, n_head=2, n_embd=32, bos_token_id=END,
            eos_token_id=END,
        )
    )  # fmt: skip
    for parameter in peer.parameters():  # large weights: the model has opinions, and few near-ties
        torch.nn.init.normal_(parameter, std=0.5)
    return peer.eval()


@pytest.fixture(scope="module")
def model(peer: GPT2LMHeadModel) -> GPT2:
    model = GPT2(CONFIG)
    model.load_state_dict(from_openai(peer.state_dict()))
    return model


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(60, (n,), generator=generator).tolist() for n in (3, 11, 7, 1, 20, 7, 39)]


def peers_answer(peer: GPT2LMHeadModel, ids: list[int], new: int, end: int) -> list[int]:
    room = min(new, CONFIG.context_length - len(ids))
    out = peer.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=room,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=end if end != NEVER else None,
    )[0, len(ids) :].tolist()
    return out[: out.index(end)] if end in out else out


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("end", [NEVER, 5, 17])
def test_greedy_equals_transformers(peer, model, batch_size, end):
    sampling = SamplingParams(max_new_tokens=12)
    ours = generate(model, prompts(), sampling, end, RUNTIME, batch_size)
    for ids, new in zip(prompts(), ours, strict=True):
        expected = peers_answer(peer, ids, 12, end)
        # The last token before the end of the context has no place of its own: one more may come.
        assert new[: len(expected)] == expected
        assert len(new) - len(expected) in (0, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("end", [NEVER, 5])
def test_the_step_that_a_gpu_records_writes_the_same(monkeypatch, model, batch_size, end):
    """Tensors that never move, and places in multiples; here they are not recorded but computed."""
    sampling = SamplingParams(max_new_tokens=25)
    expected = generate(model, prompts(), sampling, end, RUNTIME, batch_size)
    monkeypatch.setattr(generation, "PLACES", 16)
    monkeypatch.setattr(Decoder, "step", lambda *given: RecordedStep(*given))
    assert generate(model, prompts(), sampling, end, RUNTIME, batch_size) == expected


class Operations(TorchDispatchMode):
    """Names of the operations that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_a_step_that_a_gpu_records_never_waits_for_it(model):
    step = RecordedStep(Decoder(model, RUNTIME), 3, 20)
    with torch.no_grad(), Operations() as seen:
        step._logits(generation.PLACES)
    assert "index_put_" in seen.names
    assert not seen.names & {"_local_scalar_dense", "nonzero", "masked_select", "equal"}


def test_a_stop_token_ends_its_own_row_only(model):
    free = generate(model, prompts(), SamplingParams(max_new_tokens=12), NEVER, RUNTIME)
    stop = free[1][4]
    ended = generate(model, prompts(), SamplingParams(max_new_tokens=12), stop, RUNTIME)
    for whole, cut in zip(free, ended, strict=True):
        assert cut == (whole[: whole.index(stop)] if stop in whole else whole)


def test_samples_repeat_with_their_seed_in_any_batch(model):
    def sampled(seed: int, batch_size: int) -> list[list[int]]:
        sampling = SamplingParams(max_new_tokens=10, temperature=1.0, top_k=20, seed=seed)
        return generate(model, prompts(), sampling, NEVER, RUNTIME, batch_size)

    assert sampled(1, 32) == sampled(1, 2)
    assert sampled(1, 32) != sampled(2, 32)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_new_tokens=1, temperature=0.7),
        SamplingParams(max_new_tokens=1, temperature=1.3, top_k=5),
        SamplingParams(max_new_tokens=1, temperature=1.0, top_p=0.6),
        SamplingParams(max_new_tokens=1, temperature=0.9, top_k=30, top_p=0.8),
        SamplingParams(max_new_tokens=1, temperature=1.0, top_p=0.0001),
    ],
)
def test_probabilities_equal_transformers(sampling):
    logits = torch.randn(4, 61, generator=torch.Generator().manual_seed(3)) * 2
    expected = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    torch.testing.assert_close(next_token_probabilities(logits, sampling), expected.softmax(-1))


def test_samples_have_their_probabilities(model):
    sampling = SamplingParams(max_new_tokens=1, temperature=1.0, top_k=6)
    n = 4000
    first = torch.tensor(generate(model, [[1]] * n, sampling, NEVER, RUNTIME, n))[:, 0]
    with torch.no_grad():
        expected = next_token_probabilities(model.eval()(torch.tensor([[1]]))[:, -1], sampling)[0]
    observed = torch.bincount(first, minlength=61) / n
    # Five standard deviations of a binomial count.
    assert ((observed - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("end", [NEVER, 5, 17])
def test_a_stream_is_what_generate_gives(model, temperature, end):
    sampling = SamplingParams(max_new_tokens=12, temperature=temperature, seed=4)
    for ids in prompts():
        [whole] = generate(model, [ids], sampling, end, RUNTIME)
        assert list(stream(model, ids, sampling, end, RUNTIME)) == whole


@pytest.mark.parametrize("taken", [1, 5])
def test_a_stream_computes_each_token_when_it_is_asked_for_and_may_be_left(model, taken):
    passes = []

    def note(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, Block) and module.attn.layer == 0:
            passes.append(torch.is_grad_enabled())

    model.train()
    tokens = stream(model, [1], SamplingParams(max_new_tokens=5), NEVER, BFLOAT16)
    with register_module_forward_hook(note):
        for n in range(taken):
            next(tokens)
            assert passes == [False] * (n + 1)
            assert torch.is_grad_enabled()
    tokens.close()
    assert model.training
    assert not torch.is_autocast_enabled("cpu")


def test_streams_may_be_taken_in_turns_and_by_threads(model):
    sampling = SamplingParams(max_new_tokens=9, temperature=1.0)
    whole = [generate(model, [ids], sampling, NEVER, BFLOAT16)[0] for ids in prompts()[:3]]
    streams = [stream(model, ids, sampling, NEVER, BFLOAT16) for ids in prompts()[:3]]
    assert [list(tokens) for tokens in zip(*zip(*streams, strict=True), strict=True)] == whole
    streams = [stream(model, ids, sampling, NEVER, BFLOAT16) for ids in prompts()[:3]]
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(list, streams)) == whole


@pytest.mark.parametrize("shape", [(1, 32), (7, 1, 32), (2, 19, 32)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_product_is_a_linear_layer(shape, bias, gelu, dtype):
    generator = torch.Generator().manual_seed(6)
    weight, x = torch.randn(61, 32, generator=generator), torch.randn(shape, generator=generator)
    added = torch.randn(61, generator=generator) if bias else None
    product = Product(weight, added, Runtime(torch.device("cpu"), dtype), gelu)
    expected = F.linear(x, weight, added)
    if gelu:
        expected = F.gelu(expected, approximate=gelu)
    assert product(x).dtype == dtype
    rounding = 2 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(product(x).float(), expected, rtol=0, atol=max(rounding, 1e-5))


@pytest.mark.parametrize("runtime", [RUNTIME, BFLOAT16])
def test_a_decoder_computes_what_the_model_does(model, runtime):
    ids = torch.tensor([prompts()[4]])
    decoder = Decoder(model, runtime)
    cache = decoder.cache(3, 20)
    before = Past(cache, torch.arange(19)[None], first_row=2)
    decoder.features(ids[:, :19], before)
    cache.move(2, 1)
    last = Past(cache, torch.tensor([[19]]), first_row=1)
    with torch.no_grad(), runtime.autocast():
        expected = model.eval()(ids)[:, -1].float()
    found = decoder.next_logits(ids[:, 19:], last).float()
    rounding = 1e-5 if runtime is RUNTIME else 0.03
    assert (found - expected).abs().max() <= rounding * expected.abs().max()


def test_a_decoder_shares_what_it_need_not_change_and_leaves_the_model_alone(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    decoder = Decoder(model.train(), BFLOAT16)
    assert decoder.model.wte.weight.data_ptr() == model.wte.weight.data_ptr()
    assert model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_any_seed_will_do(model):
    sampling = SamplingParams(max_new_tokens=5, temperature=1.0, seed=10**30)
    [new] = generate(model, [[1]], sampling, NEVER, RUNTIME)
    assert len(new) == 5


def test_generation_leaves_mode_and_random_state_alone(model):
    model.train()
    state = torch.get_rng_state()
    sampling = SamplingParams(max_new_tokens=3, temperature=1.0)
    generate(model, [[1]], sampling, NEVER, RUNTIME)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("length", [0, 40])
def test_prompts_that_cannot_be_continued_are_refused(model, length):
    with pytest.raises(UserError, match=rf"prompt 1 has {length} tokens; .* 1 to 39"):
        generate(model, [[1], [1] * length], SamplingParams(max_new_tokens=1), END, RUNTIME)
    with pytest.raises(UserError, match=rf"the prompt has {length} tokens; .* 1 to 39"):
        stream(model, [1] * length, SamplingParams(max_new_tokens=1), END, RUNTIME)
