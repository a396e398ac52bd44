"""Generation compared with `transformers`, and frequencies of samples with their probabilities."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.generation import decoder
from gpt2.inference.generation.decoder import CapturedStep, Decoder
from gpt2.inference.generation.loop import generate, stream
from gpt2.inference.generation.sampling import SamplingParams, choose, next_token_probabilities
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2, Block
from gpt2.model.openai_tensors import from_openai

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
    for parameter in peer.parameters():  # large weights: clear preferences, few near-ties
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


def long_prompts() -> list[list[int]]:
    """Prompts shorter than the context, as long, and longer."""
    generator = torch.Generator().manual_seed(3)
    lengths = (3, 25, 38, 39, 40, 41, 55, 130)
    return [torch.randint(60, (n,), generator=generator).tolist() for n in lengths]


def peers_answer(
    peer: GPT2LMHeadModel, ids: list[int], new: int, end: int, **settings: object
) -> list[int]:
    out = peer.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=end if end != NEVER else None,
        **settings,
    )[0, len(ids) :].tolist()
    return out[: out.index(end)] if end in out else out


@torch.no_grad()
def plain_loop(
    peer: GPT2LMHeadModel, ids: list[int], new: int, end: int, processors: LogitsProcessorList
) -> list[int]:
    """The tutorial's loop: a pass over the whole window for each token."""
    text = torch.tensor([ids])
    for _ in range(new):
        logits = peer(text[:, -CONFIG.context_length :]).logits[:, -1]
        token = processors(text, logits).argmax(-1, keepdim=True)
        if token == end:
            break
        text = torch.cat([text, token], dim=1)
    return text[0, len(ids) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("end", [NEVER, 5, 17])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers(peer, model, batch_size, end, penalty):
    sampling = SamplingParams(max_new_tokens=12, repetition_penalty=penalty)
    fitting = [ids for ids in prompts() if len(ids) + 12 <= CONFIG.context_length]
    ours = generate(model, fitting, sampling, end, RUNTIME, batch_size)
    theirs = [peers_answer(peer, ids, 12, end, repetition_penalty=penalty) for ids in fitting]
    assert ours == theirs


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("end", [NEVER, 5])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_beyond_the_context_the_window_slides(peer, model, batch_size, end, penalty):
    """Rows reach the limit at different times, some at the start, and some never."""
    sampling = SamplingParams(max_new_tokens=30, repetition_penalty=penalty)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
    ours = generate(model, long_prompts(), sampling, end, RUNTIME, batch_size)
    assert ours == [plain_loop(peer, ids, 30, end, processors) for ids in long_prompts()]


def test_samples_beyond_the_context_are_those_of_the_plain_loop(peer, model):
    sampling = SamplingParams(max_new_tokens=50, temperature=1.0, top_k=30, seed=8)
    [ours] = generate(model, [[7, 8, 9]], sampling, NEVER, RUNTIME)
    text, generator = [7, 8, 9], torch.Generator().manual_seed(8 * 1_000_003)
    for _ in range(50):
        with torch.no_grad():
            logits = peer(torch.tensor([text[-CONFIG.context_length :]])).logits[:, -1]
        text.append(choose(logits, sampling, [text], [generator]).item())
    assert ours == text[3:]


def test_a_context_of_one_token():
    torch.manual_seed(5)
    model = GPT2(CONFIG.model_copy(update={"context_length": 1})).eval()
    [ours] = generate(model, [[7, 8]], SamplingParams(max_new_tokens=5), NEVER, RUNTIME)
    token, expected = 8, []
    for _ in range(5):
        token = model(torch.tensor([[token]]))[0, -1].argmax().item()
        expected.append(token)
    assert ours == expected


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("end", [NEVER, 5])
def test_the_step_that_a_gpu_captures_generates_the_same(monkeypatch, model, batch_size, end):
    """Tensors of fixed address and shape; on a CPU the step is computed, not captured."""
    sampling, texts = SamplingParams(max_new_tokens=25), [*prompts(), *long_prompts()]
    expected = generate(model, texts, sampling, end, RUNTIME, batch_size)
    monkeypatch.setattr(decoder, "SLOT_MULTIPLE", 16)
    monkeypatch.setattr(Decoder, "step", lambda *given: CapturedStep(*given))
    assert generate(model, texts, sampling, end, RUNTIME, batch_size) == expected


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
    for ids in [*prompts(), *long_prompts()]:
        [whole] = generate(model, [ids], sampling, end, RUNTIME)
        assert list(stream(model, ids, sampling, end, RUNTIME)) == whole


@pytest.mark.parametrize("taken", [1, 5])
def test_a_stream_computes_each_token_on_demand_and_can_be_closed(model, taken):
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


def test_streams_can_be_interleaved_and_used_by_threads(model):
    sampling = SamplingParams(max_new_tokens=9, temperature=1.0)
    whole = [generate(model, [ids], sampling, NEVER, BFLOAT16)[0] for ids in prompts()[:3]]
    streams = [stream(model, ids, sampling, NEVER, BFLOAT16) for ids in prompts()[:3]]
    assert [list(tokens) for tokens in zip(*zip(*streams, strict=True), strict=True)] == whole
    streams = [stream(model, ids, sampling, NEVER, BFLOAT16) for ids in prompts()[:3]]
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(list, streams)) == whole


def test_a_seed_may_be_larger_than_64_bits(model):
    sampling = SamplingParams(max_new_tokens=5, temperature=1.0, seed=10**30)
    [new] = generate(model, [[1]], sampling, NEVER, RUNTIME)
    assert len(new) == 5


def test_generation_does_not_change_mode_or_random_state(model):
    model.train()
    state = torch.get_rng_state()
    sampling = SamplingParams(max_new_tokens=3, temperature=1.0)
    generate(model, [[1]], sampling, NEVER, RUNTIME)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["a stop, a top, a stopper"] * 3, 300)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_string_ends_its_own_row_with_the_token_that_completes_it(tokenizer, temperature):
    torch.manual_seed(9)
    config = GPT2Config(vocab_size=290, context_length=16, n_layer=1, n_head=2, n_embd=32)
    model = GPT2(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    free = SamplingParams(max_new_tokens=40, temperature=temperature)
    texts = [tokenizer.encode(text) for text in ("a", "stop", "a top, a", "stop, ")]
    whole = generate(model, texts, free, NEVER, RUNTIME)
    stop = [tokenizer.bytes_of(token).decode("utf-8", "ignore") for token in whole[1][3:20]]
    stop = [text for text in stop if text][:2]
    assert stop
    until = free.model_copy(update={"stop": stop})
    ended = generate(model, texts, until, NEVER, RUNTIME, tokenizer=tokenizer)
    assert any(len(cut) < len(full) for cut, full in zip(ended, whole, strict=True))
    for cut, full in zip(ended, whole, strict=True):
        assert cut == full[: len(cut)]
        *before, newest = map(tokenizer.bytes_of, cut)
        assert not any(text.encode() in b"".join(before) for text in stop)
        stopped = any(text.encode() in b"".join([*before, newest]) for text in stop)
        assert stopped or len(cut) == len(full)
    with pytest.raises(ValueError, match="tokenizer"):
        generate(model, texts, until, NEVER, RUNTIME)


def test_a_prompt_without_tokens_is_refused(model):
    with pytest.raises(UserError, match="prompt 1 has no tokens"):
        generate(model, [[1], []], SamplingParams(max_new_tokens=1), END, RUNTIME)
    with pytest.raises(UserError, match="the prompt has no tokens"):
        stream(model, [], SamplingParams(max_new_tokens=1), END, RUNTIME)


def test_a_prompt_longer_than_the_context_keeps_its_end_or_is_refused(model, caplog):
    texts, sampling = [[1] * 40, [2] * 41], SamplingParams(max_new_tokens=3)
    generate(model, texts[:1], sampling, NEVER, RUNTIME)
    assert not caplog.text
    long = generate(model, texts, sampling, NEVER, RUNTIME)
    assert (
        "prompt 1 has 41 tokens, and the model's context 40 (1 of 2 are too long): only its end"
    ) in caplog.text
    assert long[1] == generate(model, [[2] * 40], sampling, NEVER, RUNTIME)[0]
    strict = sampling.model_copy(update={"strict": True})
    assert generate(model, texts[:1], strict, NEVER, RUNTIME) == long[:1]
    with pytest.raises(UserError, match="prompt 1 has 41 tokens, and the model's context 40"):
        generate(model, texts, strict, NEVER, RUNTIME)
    with pytest.raises(UserError, match="the prompt has 41 tokens"):
        stream(model, texts[1], strict, NEVER, RUNTIME)
