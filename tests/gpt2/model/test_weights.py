"""Model directories against Hugging Face's own reader and writer."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from gpt2.core import files
from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.core.model_files import INDEX
from gpt2.data.batch import Batch
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import config_file, weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.openai_tensors import to_openai
from gpt2.training.loss import loss_sum
from tests.hugging_face import TEXT, write_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> tuple[Tokenizer, Path]:
    directory = tmp_path_factory.mktemp("tokenizer")
    trained = train_bpe([TEXT], 300)
    trained.save(directory)
    return trained, directory


@pytest.fixture
def saved(tokenizer, tmp_path) -> tuple[GPT2, Path]:
    trained, directory = tokenizer
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, context_length=48, n_layer=2, n_head=2, n_embd=16)
    model = GPT2(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(model, tmp_path / "model", directory, trained.end_of_text, {"stage": "test"})
    return model, tmp_path / "model"


def peers_checkpoint(directory: Path, **config: object) -> GPT2LMHeadModel:
    directory.mkdir(exist_ok=True)
    peer = write_model(directory, **config)
    seal(directory)
    return peer


def seal(directory: Path) -> None:
    """Write the manifest of a directory that another program wrote."""
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    with files.new_directory(directory) as new:
        for name in contents.keys() - {files.MANIFEST}:
            (new / name).write_bytes(contents[name])


def test_transformers_loads_our_directory_with_the_same_logits_and_tokens(saved, tokenizer):
    model, directory = saved
    peer = AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer[0].encode(TEXT)[:48]
    peer_tokenizer = AutoTokenizer.from_pretrained(directory)
    assert peer_tokenizer(TEXT)["input_ids"][:48] == ids
    assert peer_tokenizer.decode(ids) == tokenizer[0].decode(ids)
    assert peer.generation_config.eos_token_id == tokenizer[0].end_of_text
    batch = torch.tensor([ids])
    torch.testing.assert_close(model(batch), peer(batch).logits, rtol=1e-5, atol=1e-5)
    loss = F.cross_entropy(model(batch)[0, :-1], batch[0, 1:])
    assert peer(batch, labels=batch).loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_saved_weights_are_loaded_exactly(saved):
    model, directory = saved
    loaded = weights.load(directory, dropout=0.25)
    assert loaded.config == model.config.model_copy(update={"dropout": 0.25})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert json.loads((directory / "training.json").read_text()) == {"stage": "test"}


def test_our_file_has_openais_names_and_orientation(saved):
    tensors = load_file(saved[1] / "model.safetensors")
    assert tensors["h.0.attn.c_attn.weight"].shape == (16, 48)
    assert tensors["h.1.mlp.c_fc.weight"].shape == (16, 64)
    assert "lm_head.weight" not in tensors
    assert not any(name.startswith("transformer.") for name in tensors)


@pytest.mark.parametrize("n_head", [1, 2, 4])
@pytest.mark.parametrize("n_embd", [8, 16, 24])
def test_a_checkpoint_of_transformers_gives_its_logits_loss_gradients_and_tokens(
    tmp_path, n_head, n_embd
):
    peer = peers_checkpoint(tmp_path, n_head=n_head, n_embd=n_embd)
    ours = weights.load(tmp_path)
    ids = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(0))
    logits, theirs = ours(ids), peer(ids, labels=ids)
    torch.testing.assert_close(logits, theirs.logits, rtol=1e-5, atol=1e-5)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-6, atol=0)

    loss.backward()
    theirs.loss.backward()
    gradients = to_openai({name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in peer.transformer.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)

    prompts = ids[:, :5]
    continued = peer.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=15
    )
    runtime = Runtime(torch.device("cpu"), torch.float32)
    greedy = SamplingParams(max_new_tokens=15)
    for row, tokens in enumerate(generate(ours, prompts.tolist(), greedy, 0, runtime)):
        assert (tokens + [0] * 15)[:15] == continued[row, 5:].tolist()  # 0 ends and pads a row


def rewrite(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    seal(directory)


def plain(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_old_checkpoint_variants_load(tmp_path, dtype, prefix):
    peer = peers_checkpoint(tmp_path)

    def age(tensors):
        old = plain(tensors)
        for layer in range(2):
            old[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 20, 20).tril().to(dtype)
            old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4, dtype=torch.bfloat16)
        head = {"lm_head.weight": old["wte.weight"].clone()}
        return {f"{prefix}{name}": tensor for name, tensor in old.items()} | head

    rewrite(tmp_path, age)
    ids = torch.randint(90, (2, 20))
    torch.testing.assert_close(weights.load(tmp_path)(ids), peer(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_to_float32(tmp_path, dtype):
    peer = peers_checkpoint(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: t.to(dtype) for name, t in tensors.items()})
    loaded = to_openai(weights.load(tmp_path).state_dict())
    for name, tensor in peer.transformer.state_dict().items():
        assert torch.equal(loaded[name], tensor.to(dtype).float()), name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: {**t, "extra.weight": torch.ones(1)}, "extra.weight: unexpected"),
        (
            lambda t: {n: x for n, x in t.items() if not n.endswith("h.1.ln_2.bias")},
            "h.1.ln_2.bias: missing",
        ),
        (
            lambda t: {n: x[:-1] if n.endswith("wpe.weight") else x for n, x in t.items()},
            r"wpe.weight: shape \(19, 16\), expected \(20, 16\)",
        ),
        (lambda t: {**t, "lm_head.weight": torch.ones(90, 16)}, "lm_head.weight: differs"),
        (
            lambda t: {**t, "lm_head.weight": plain(t)["wte.weight"].half()},
            "lm_head.weight: differs",
        ),
        (
            lambda t: {**t, "ln_f.bias": torch.zeros(16)},
            "ln_f.bias: there with and without the prefix",
        ),
        (
            lambda t: {**t, "h.1.attn.bias": torch.ones(1, 1, 20, 20)},
            "h.1.attn.bias: is not the constant causal mask of 20 positions",
        ),
        (
            lambda t: {**t, "h.1.attn.bias": torch.ones(1, 1, 10, 10).tril()},
            "h.1.attn.bias: is not the constant causal mask of 20 positions",
        ),
        (
            lambda t: {**t, "h.0.attn.masked_bias": torch.tensor(1.0)},
            "h.0.attn.masked_bias: is not the constant",
        ),
        (
            lambda t: {**t, "h.2.attn.bias": torch.ones(1, 1, 20, 20).tril()},
            "h.2.attn.bias: unexpected",
        ),
        (
            lambda t: {n: x.int() if n.endswith("wpe.weight") else x for n, x in t.items()},
            "wpe.weight: dtype torch.int32, expected one of torch.float32",
        ),
        (
            lambda t: {n: x.double() if n.endswith("ln_f.bias") else x for n, x in t.items()},
            "ln_f.bias: dtype torch.float64",
        ),
    ],
)
def test_other_tensors_are_refused(tmp_path, change, expected):
    peers_checkpoint(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(UserError, match=expected):
        weights.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', not GELU"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, GPT-2's is True"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map is .*'x.Y'"),
    ],
)
def test_variants_that_are_not_gpt2_are_refused(tmp_path, config, expected):
    peers_checkpoint(tmp_path, **config)
    with pytest.raises(UserError, match=expected):
        weights.load(tmp_path)


VARIATIONS = [
    {"n_inner": 24},
    {"n_inner": 16, "tie_word_embeddings": False},
    {"tie_word_embeddings": False},
    *({"activation_function": name} for name in config_file.GELU),
    {"activation_function": "gelu", "n_inner": 40, "tie_word_embeddings": False},
    {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3, "use_cache": False},
]


@pytest.mark.parametrize("config", VARIATIONS, ids=str)
def test_supported_variants_have_the_logits_and_gradients_of_transformers(tmp_path, config):
    peer = peers_checkpoint(tmp_path / "theirs", **config)
    ours = weights.load(tmp_path / "theirs").eval()
    ids = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(0))
    theirs = peer(ids, labels=ids)
    torch.testing.assert_close(ours(ids), theirs.logits, rtol=1e-5, atol=1e-5)
    theirs.loss.backward()
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    (loss_sum(ours, Batch(ids, targets)) / 38).backward()
    gradients = to_openai({name: p.grad for name, p in ours.named_parameters()})
    expected = dict(peer.named_parameters())
    assert len(gradients) == len(expected)
    for name, gradient in gradients.items():
        theirs_name = name if name in expected else f"transformer.{name}"
        torch.testing.assert_close(
            gradient, expected[theirs_name].grad, rtol=1e-4, atol=1e-5, msg=name
        )

    prompts = ids[:, :5]
    continued = peer.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=15
    )
    runtime = Runtime(torch.device("cpu"), torch.float32)
    greedy = SamplingParams(max_new_tokens=15)
    for row, tokens in enumerate(generate(ours, prompts.tolist(), greedy, 0, runtime)):
        expected = [*continued[row, 5:].tolist(), *[0] * 15]  # 0 ends and pads a row
        assert (tokens + [0] * 15)[:15] == expected[:15]


@pytest.mark.parametrize("config", VARIATIONS, ids=str)
def test_variants_are_saved_and_loaded(tmp_path, tokenizer, config):
    peer = peers_checkpoint(tmp_path / "theirs", vocab_size=300, **config)
    ours = weights.load(tmp_path / "theirs")
    weights.save(ours, tmp_path / "ours", tokenizer[1], tokenizer[0].end_of_text, {})
    assert weights.load(tmp_path / "ours").config == ours.config
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(90, (2, 20))
    torch.testing.assert_close(again(ids).logits, peer(ids).logits, rtol=1e-5, atol=1e-5)


def test_shards_give_the_same_model_as_one_file(tmp_path):
    peer = write_model(tmp_path, shard="8KB")
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2
    ids = torch.randint(90, (2, 20))
    ours = weights.load(tmp_path, foreign=True)
    torch.testing.assert_close(ours(ids), peer(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda place: {}, "no table 'weight_map'"),
        (
            lambda place: dict.fromkeys(place, "../other.safetensors"),
            "not a safetensors file beside",
        ),
        (lambda place: dict.fromkeys(place, "/etc/passwd"), "not a safetensors file beside it"),
        (lambda place: dict.fromkeys(place, "gone.safetensors"), "gone.safetensors: no such file"),
        (lambda place: dict([*place.items()][:-1]), "its tensors are not those that"),
        (
            lambda place: {**place, "more": next(iter(place.values()))},
            "index.json lists: more",
        ),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(tmp_path, change, expected):
    write_model(tmp_path, shard="8KB")
    path = tmp_path / INDEX
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "weight_map": change(index["weight_map"])}))
    with pytest.raises(UserError, match=expected):
        weights.load(tmp_path, foreign=True)


def test_an_untied_model_without_its_output_layer_is_refused(tmp_path):
    peers_checkpoint(tmp_path, tie_word_embeddings=False)
    rewrite(tmp_path, lambda t: {n: x for n, x in t.items() if n != "lm_head.weight"})
    with pytest.raises(UserError, match=r"lm_head.weight: missing"):
        weights.load(tmp_path)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    peers_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
    seal(tmp_path)
    with pytest.raises(UserError, match="not a safetensors file"):
        weights.load(tmp_path)


def test_weights_in_another_file_are_not_read(tmp_path):
    peers_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    seal(tmp_path)
    with pytest.raises(UserError, match=r"model.safetensors: no such file.*safetensors only"):
        weights.load(tmp_path)


@pytest.mark.parametrize("foreign", [True, False])
def test_a_directory_without_a_model_says_so(tmp_path, foreign):
    with files.new_directory(tmp_path / "gpt2", {"size": "none"}):
        pass
    with pytest.raises(UserError, match=r"no model was downloaded there. Set gpt2_weights.size"):
        weights.load(tmp_path / "gpt2", foreign=foreign)


def test_only_foreign_directories_may_lack_a_manifest(tmp_path):
    write_model(tmp_path)
    assert weights.load(tmp_path, foreign=True).config.vocab_size == 90
    with pytest.raises(UserError, match=r"no manifest.json"):
        weights.load(tmp_path)
