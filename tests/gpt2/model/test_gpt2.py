"""Our GPT-2 against Hugging Face's, with the same weights, in float32."""

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.model.config import Architecture, GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.kv_cache import CacheView, KVCache
from gpt2.model.openai_tensors import from_openai, to_openai
from gpt2.training.loss import loss_sum

SHAPES = [
    GPT2Config(vocab_size=97, context_length=16, n_layer=1, n_head=1, n_embd=8),
    GPT2Config(vocab_size=300, context_length=37, n_layer=2, n_head=4, n_embd=32),
    GPT2Config(vocab_size=512, context_length=64, n_layer=3, n_head=3, n_embd=48),
    GPT2Config(vocab_size=300, context_length=37, n_layer=2, n_head=4, n_embd=32, dropout=0.2),
]


def peer_of(config: GPT2Config) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    peer = GPT2LMHeadModel(
        PeerConfig(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            attn_implementation="sdpa",
        )
    )
    for (
        parameter
    ) in peer.parameters():  # also the biases, which start at 0 and would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1)
    return peer


def ours_of(config: GPT2Config, peer: GPT2LMHeadModel) -> GPT2:
    model = GPT2(config)
    model.load_state_dict(from_openai(peer.state_dict()))
    return model


def ids_for(config: GPT2Config) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(config.vocab_size, (3, config.context_length), generator=generator)


def assert_close(ours: torch.Tensor, peers: torch.Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert (ours - peers).abs().max() <= 1e-5 * peers.abs().max()


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_logits_loss_and_gradients_equal_transformers(config, training):
    peer = peer_of(config).train(training)
    model = ours_of(config, peer).train(training)
    ids = ids_for(config)

    # Both draw their dropout masks in the order of the network, so equal seeds give equal masks.
    torch.manual_seed(11)
    expected = peer(ids, labels=ids)
    torch.manual_seed(11)
    logits = model(ids)
    assert_close(logits, expected.logits)

    targets = F.pad(ids[:, 1:], (0, 1), value=IGNORE_INDEX)
    torch.manual_seed(11)
    loss = loss_sum(model, Batch(ids, targets)) / (targets != IGNORE_INDEX).sum()
    assert_close(loss, expected.loss)

    expected.loss.backward()
    loss.backward()
    ours = to_openai({name: p.grad for name, p in model.named_parameters()})
    theirs = {n.removeprefix("transformer."): p.grad for n, p in peer.named_parameters()}
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("config", SHAPES[:3])
def test_decoding_with_a_cache_equals_the_full_forward_pass(config):
    model = ours_of(config, peer_of(config)).eval()
    ids = ids_for(config)
    B, T = ids.shape
    full = model(ids)
    cache = KVCache(config, B, T, full)
    positions = torch.arange(T).expand(B, T)
    head = T // 2
    parts = [model(ids[:, :head], CacheView(cache, positions[:, :head]))]
    for t in range(head, T):
        parts.append(model(ids[:, t : t + 1], CacheView(cache, positions[:, t : t + 1])))
    assert_close(torch.cat(parts, 1), full)


def test_rows_of_different_lengths_share_a_cache():
    config = SHAPES[1]
    model = ours_of(config, peer_of(config)).eval()
    ids = ids_for(config)
    lengths = torch.tensor([5, 9, 2])
    cache = KVCache(config, 3, config.context_length, model(ids))
    padded = ids[:, :9].clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = 0
    model(padded, CacheView(cache, torch.arange(9).expand(3, 9)))
    for step in range(4):
        new = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)])
        logits = model(new[:, None], CacheView(cache, (lengths + step)[:, None]))
        for row, length in enumerate(lengths):
            assert_close(logits[row, 0], model(ids[row : row + 1, : length + step + 1])[0, -1])


def test_no_token_sees_what_follows_it():
    config = SHAPES[1]
    model = ours_of(config, peer_of(config)).eval()
    ids = ids_for(config)
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % config.vocab_size
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_initialisation_is_openais():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=5000, context_length=256, n_layer=8, n_head=4, n_embd=256)
    model = GPT2(config)
    state = model.state_dict()
    expected = {
        "wte.weight": 0.02,
        "wpe.weight": 0.01,
        "h.3.attn.c_attn.weight": 0.02,
        "h.3.mlp.c_fc.weight": 0.02,
        "h.3.attn.c_proj.weight": 0.02 / 4,
        "h.7.mlp.c_proj.weight": 0.02 / 4,
    }
    for name, std in expected.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.02), name
    assert all((state[name] == 0).all() for name in state if name.endswith("bias"))
    assert all((state[n] == 1).all() for n in state if "ln_" in n and n.endswith("weight"))


def test_gpt2_124m_has_its_known_number_of_parameters():
    config = GPT2Config(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768)
    with torch.device("meta"):
        model = GPT2(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="17 tokens do not fit the context of 16"):
        GPT2(SHAPES[0])(torch.zeros(1, 17, dtype=torch.long))


def test_heads_must_divide_the_channels():
    shape = {"context_length": 8, "n_layer": 1, "n_head": 3, "n_embd": 8}
    with pytest.raises(UserError, match="n_embd=8 is not a multiple of n_head=3"):
        parse(Architecture, shape, "params.yaml: pretrain.model")
