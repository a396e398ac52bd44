"""Exported GGUF files in the real llama.cpp (xllamacpp), through its HTTP server on localhost.

llama.cpp is slightly less exact: it looks up GELU in a float16 table, and multiplies a float16
matrix with float16 inputs, and a q8_0 matrix with q8_0 inputs.
"""

import inspect
import re
import resource
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import requests
import torch
import xllamacpp
from jinja2.sandbox import ImmutableSandboxedEnvironment
from torch import Tensor
from torch.nn import functional as F
from transformers import AddedToken, AutoTokenizer, GPT2LMHeadModel
from transformers import GPT2Config as PeerConfig

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.export import (
    CHAT_TEMPLATE,
    OLLAMA_TEMPLATE,
    Quantization,
    export_gguf,
    follows_alpaca,
    modelfile,
)
from gpt2.inference.generation.loop import generate
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from tests.hugging_face import write_model

RUNTIME = Runtime(torch.device("cpu"), torch.float32)
CONTEXT, N_PROMPT, N_NEW = 48, 12, 20
TEXTS = [
    "It's what we've got: they're here, I'm there, you'll see, he'd know. IT'S 'SO'.",
    "  leading,  double   and trailing spaces   ",
    "tabs\tand\r\nlines\n\n\n    indented\n",
    "7 42 1234567 3.14 1e-5 ½ Ⅷ x² ٣٤",
    "Zoë's naïve façade, straße, İstanbul, e\u0301",
    "日本語の文章。中文，標點。한국어",
    "नमस्ते दुनिया ไทย שלום مرحبا",
    "👩‍💻 🇩🇪 🙂🙂 \U0001d400",
    "nbsp\u00a0ideographic\u3000next\u0085line\u2028zero\u200bwidth\ufeff",
    "def f(x: int = 0) -> None:\n    return __name__ == '__main__'  # !!! ...",
    "before<|endoftext|>after",
    "\x00\x01\x1c control",
]
INSTRUCTIONS = [
    "Add 2 and 3.",
    "  Two lines,\n\nand {{ braces }} {% if %} 'quotes' \"too\" <b>&amp;\n",
    "Übersetze: 猫 👩‍💻",
]


class Peer:
    """llama.cpp's server for one GGUF file: one slot, one thread, keys and values in float32."""

    def __init__(self, path: Path, n_ctx: int = CONTEXT) -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = n_ctx
        settings.n_parallel = 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        disabled = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.flash_attn_type = disabled
        settings.cache_ram_mib = 0
        settings.warmup = False
        settings.ui = False
        settings.verbosity = 0
        self._server = xllamacpp.Server(settings)

    def ask(self, path: str, **body: Any) -> Any:
        reply = requests.post(f"{self._server.listening_address}/{path}", json=body, timeout=60)
        reply.raise_for_status()
        return reply.json()

    def tokenize(self, text: str) -> list[int]:
        # Without parse_special, <|endoftext|> is plain text, as in our encoder.
        ids: list[int] = self.ask("tokenize", content=text, parse_special=False)["tokens"]
        return ids

    def complete(self, ids: list[int], n_new: int, n_vocab: int) -> tuple[list[int], Tensor]:
        """Greedy tokens, and the log-probabilities ``(T, V)`` from which each was chosen."""
        reply = self.ask(
            "completion",
            prompt=ids,
            n_predict=n_new,
            temperature=0,
            n_probs=n_vocab,
            return_tokens=True,
            cache_prompt=False,
        )
        rows = torch.full((len(reply["completion_probabilities"]), n_vocab), float("nan"))
        for row, step in zip(rows, reply["completion_probabilities"], strict=True):
            for entry in step["top_logprobs"]:
                row[entry["id"]] = entry["logprob"]
        return reply["tokens"], rows


@dataclass(frozen=True)
class Saved:
    """A model directory and what is in it."""

    directory: Path
    model: GPT2
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Saved, Tensor]:
    """A model that has memorised a short text, and the text, which starts again after its end.

    So its next token is never in doubt, and rounding must not change it.
    """
    text = textwrap.dedent(inspect.getdoc(statistics) or "")[:600]
    tokenizer = train_bpe([text], 300)
    ids = [*tokenizer.encode(text), tokenizer.end_of_text]
    twice = torch.tensor(2 * ids)
    windows = twice.unfold(0, CONTEXT + 1, 1)[: len(ids)]
    torch.manual_seed(0)
    shape = {"context_length": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 64}
    model = random_model(tokenizer.n_vocab, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    n_steps = 200
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / n_steps)
        batch = windows[torch.randint(len(windows), (16,))]
        logits = model(batch[:, :-1]).flatten(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(logits, batch[:, 1:].flatten()).backward()
        optimizer.step()
    directory = tmp_path_factory.mktemp("learned")
    return save(model, tokenizer, directory, {"prompt": "alpaca"}), twice


def random_model(vocab_size: int, **shape: int) -> GPT2:
    torch.manual_seed(7)  # one whose first token is a whole character: llama.cpp shows no other
    model = GPT2(GPT2Config(vocab_size=vocab_size, **shape)).eval()
    for name, parameter in model.named_parameters():
        if "ln_" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def save(model: GPT2, tokenizer: Tokenizer, parent: Path, training: dict[str, str]) -> Saved:
    (parent / "tokenizer").mkdir()
    tokenizer.save(parent / "tokenizer")
    weights.save(model, parent / "model", parent / "tokenizer", tokenizer.end_of_text, training)
    return Saved(parent / "model", model, tokenizer)


def read(path: Path, config: GPT2Config) -> tuple[GPT2, dict[str, str]]:
    """The model with the weights of a GGUF file, and their formats."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    model = GPT2(config).eval()
    state, formats = {}, {}
    for name in model.state_dict():
        theirs = names.get_name(f"transformer.{name}", (".weight", ".bias"))
        assert theirs is not None
        found = tensors.pop(theirs)
        values = gguf.quants.dequantize(found.data, found.tensor_type)
        state[name] = torch.from_numpy(np.array(values))
        formats[name] = found.tensor_type.name
    assert not tensors
    model.load_state_dict(state)
    return model, formats


def log_probabilities(model: GPT2, ids: list[int], n_prompt: int) -> Tensor:
    """``(T, V)`` log-probabilities: of each token of ``ids`` after the prompt, and the next one."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, n_prompt - 1 :].log_softmax(-1)


# Tolerances of all log-probabilities: about three times the measured differences of
# 0.004, 0.010 and 0.22 (inputs in q8_0 have a rounding error of up to 1/254 of the largest of 32).
@pytest.mark.parametrize(
    ("quantization", "tolerance"), [("f32", 0.012), ("f16", 0.03), ("q8_0", 0.6)]
)
def test_llamacpp_has_our_probabilities_and_greedy_tokens(
    learned, tmp_path, quantization, tolerance
):
    saved, text = learned
    export_gguf(saved.directory, tmp_path / "model.gguf", quantization)
    model, _ = read(tmp_path / "model.gguf", saved.model.config)
    end = saved.tokenizer.end_of_text
    starts = torch.linspace(0, len(text) // 2 - 1, 24).long().tolist()
    prompts = [text[start : start + N_PROMPT].tolist() for start in starts]
    ours = generate(model, prompts, SamplingParams(max_new_tokens=N_NEW), end, RUNTIME)
    assert any(len(new) < N_NEW for new in ours), "no continuation reaches the end of the text"
    peer = Peer(tmp_path / "model.gguf")
    for ids, new in zip(prompts, ours, strict=True):
        theirs, found = peer.complete(ids, N_NEW, saved.tokenizer.n_vocab)
        expected = log_probabilities(model, [*ids, *new], len(ids))
        wanted = [*new, end][:N_NEW]  # llama.cpp returns the end token, too
        if theirs != wanted:
            same = next(i for i in range(N_NEW) if theirs[i : i + 1] != wanted[i : i + 1])
            likeliest, second = expected[same].topk(2).values.tolist()
            assert likeliest - second < 1e-3, f"after {ids}: {theirs} instead of {wanted}"
            found = found[: same + 1]
        torch.testing.assert_close(found, expected[: len(found)], rtol=0, atol=tolerance)


@pytest.mark.parametrize("quantization", get_args(Quantization))
def test_weights_in_the_file_are_the_models_in_the_requested_format(
    learned, tmp_path, quantization
):
    saved, _ = learned
    export_gguf(saved.directory, tmp_path / "model.gguf", quantization)
    model, formats = read(tmp_path / "model.gguf", saved.model.config)
    for (name, found), (_, ours) in zip(
        model.state_dict().items(), saved.model.state_dict().items(), strict=True
    ):
        exact = ours.dim() == 1 or name == "wpe.weight"
        assert formats[name] == ("F32" if exact else quantization.upper()), name
        # q8_0: half a step of 1/127, and a little more, as the step itself is rounded to float16.
        error = {"f32": 0, "f16": 2**-11, "q8_0": 0.51 / 127}["f32" if exact else quantization]
        assert (found - ours).abs().max() <= error * ours.abs().max(), name


def test_rows_that_q8_0_cannot_hold_stay_float16(learned, tmp_path):
    tokenizer = learned[0].tokenizer
    model = random_model(tokenizer.n_vocab, context_length=30, n_layer=1, n_head=3, n_embd=24)
    saved = save(model, tokenizer, tmp_path, {})
    export_gguf(saved.directory, tmp_path / "model.gguf", "q8_0")
    rounded, formats = read(tmp_path / "model.gguf", model.config)
    assert formats["wte.weight"] == formats["h.0.attn.c_attn.weight"] == "F16"
    assert formats["h.0.mlp.c_proj.weight"] == "Q8_0"  # rows of 96
    _, found = Peer(tmp_path / "model.gguf").complete([1, 2, 3], 1, tokenizer.n_vocab)
    expected = log_probabilities(rounded, [1, 2, 3], 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_a_checkpoint_of_transformers_is_the_same_model_in_llamacpp(learned, tmp_path):
    tokenizer = learned[0].tokenizer
    torch.manual_seed(1)
    config = PeerConfig(
        vocab_size=tokenizer.n_vocab, n_positions=40, n_layer=2, n_head=4, n_embd=32
    )
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "foreign")
    tokenizer.save(tmp_path / "foreign")
    export_gguf(tmp_path / "foreign", tmp_path / "new" / "model.gguf", "f32")
    reader = gguf.GGUFReader(tmp_path / "new" / "model.gguf")
    assert "tokenizer.chat_template" not in reader.fields
    assert reader.fields["general.name"].contents() == "foreign"
    ids = tokenizer.encode("mean(data)")
    _, found = Peer(tmp_path / "new" / "model.gguf").complete(ids, 1, tokenizer.n_vocab)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, -1:].log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.002)


@pytest.mark.parametrize(
    "config", [{"n_inner": 48}, {"tie_word_embeddings": False}, {"vocab_size": 320}], ids=str
)
def test_variants_are_the_same_model_in_llamacpp(learned, tmp_path, config):
    tokenizer = learned[0].tokenizer
    theirs = write_model(tmp_path / "theirs", **{"vocab_size": tokenizer.n_vocab, **config})
    tokenizer.save(tmp_path / "theirs")
    export_gguf(tmp_path / "theirs", tmp_path / "model.gguf", "f32")
    ids = tokenizer.encode("mean(data)")
    peer = Peer(tmp_path / "model.gguf", n_ctx=20)
    _, found = peer.complete(ids, 1, theirs.config.vocab_size)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, -1:].log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_added_tokens_are_those_of_llamacpp(learned, tmp_path):
    directory = tmp_path / "theirs"
    learned[0].tokenizer.save(tmp_path)
    added = AutoTokenizer.from_pretrained(tmp_path)
    added.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": ["<|im_end|>"]})
    added.add_tokens(["data)"])
    added.eos_token = "<|im_end|>"
    write_model(directory, vocab_size=320, eos_token_id=added.eos_token_id)
    added.save_pretrained(directory)
    assert export_gguf(directory, tmp_path / "model.gguf") == "<|im_end|>"
    peer = Peer(tmp_path / "model.gguf", n_ctx=20)
    for text in ("mean(data)<|im_end|>[PAD] x", "[PAD", "data) data)"):
        ids = peer.ask("tokenize", content=text, parse_special=True)["tokens"]
        assert ids == added(text).input_ids
        assert peer.ask("detokenize", tokens=ids)["content"] == text
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == added.eos_token_id
    assert fields["tokenizer.ggml.tokens"].contents()[319] == "[PAD319]"


@pytest.mark.parametrize(
    ("config", "token", "message"),
    [
        ({"activation_function": "gelu"}, "x", "it computes GELU exactly"),
        ({}, AddedToken("<mask>", lstrip=True), "'<mask>' has lstrip, rstrip or single_word"),
    ],
)
def test_what_llamacpp_does_not_support_is_refused(learned, tmp_path, config, token, message):
    learned[0].tokenizer.save(tmp_path)
    added = AutoTokenizer.from_pretrained(tmp_path)
    added.add_tokens([token])
    write_model(tmp_path / "theirs", vocab_size=len(added), **config)
    added.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=message):
        export_gguf(tmp_path / "theirs", tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.fixture(scope="module")
def many_merges(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Peer]:
    """A tokenizer with many merges, here and in llama.cpp: differences in pre-tokenization show."""
    tokenizer = train_bpe(3 * TEXTS, 540)
    model = random_model(tokenizer.n_vocab, context_length=256, n_layer=1, n_head=1, n_embd=32)
    directory = tmp_path_factory.mktemp("many_merges")
    saved = save(model, tokenizer, directory, {"prompt": "alpaca"})
    export_gguf(saved.directory, directory / "model.gguf")
    return tokenizer, Peer(directory / "model.gguf", n_ctx=256)


@pytest.mark.parametrize("text", TEXTS)
def test_llamacpp_has_our_tokens(many_merges, text):
    tokenizer, peer = many_merges
    ids = peer.tokenize(text)
    assert ids == tokenizer.encode(text)
    assert peer.ask("detokenize", tokens=ids)["content"] == text


def test_the_end_token_is_special_to_llamacpp_and_none_is_added(many_merges):
    tokenizer, peer = many_merges
    marked = peer.ask("tokenize", content="a<|endoftext|>", parse_special=True, add_special=True)
    assert marked["tokens"] == [*tokenizer.encode("a"), tokenizer.end_of_text]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_chat_has_the_prompt_of_finetuning(many_merges, instruction):
    expected = prompt(instruction, "")
    messages = [{"role": "user", "content": instruction}]
    earlier = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    # Rendered as by transformers.
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = jinja.from_string(CHAT_TEMPLATE)
    assert template.render(messages=messages, add_generation_prompt=True) == expected
    peer = many_merges[1]
    for chat in (messages, [*earlier, *messages]):
        assert peer.ask("apply-template", messages=chat)["prompt"] == expected
    # Only the text between the actions of the Go template: there is no Go interpreter.
    go = re.sub(r"{{ (range|if|end)\b.*?}}", "", OLLAMA_TEMPLATE)
    assert go.replace("{{ .Content }}", instruction) == expected


def test_only_a_model_that_learned_instructions_has_a_chat_template(learned, tmp_path):
    saved, _ = learned
    assert follows_alpaca(saved.directory)
    assert not follows_alpaca(tmp_path)
    tokenizer = saved.tokenizer
    model = random_model(tokenizer.n_vocab, context_length=8, n_layer=1, n_head=1, n_embd=8)
    pretrained = save(model, tokenizer, tmp_path, {"stage": "pretrain"})
    assert not follows_alpaca(pretrained.directory)


def test_the_modelfile_decodes_as_generate_does():
    text = modelfile("model.gguf", context_length=1024, alpaca=True)
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ range')
    assert text.endswith(
        '{{ end }}{{ end }}"""\n'
        "PARAMETER num_ctx 1024\n"
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1\n"
        'PARAMETER stop "<|endoftext|>"\n'
    )
    plain = modelfile("model.gguf", context_length=1024, alpaca=False)
    assert 'TEMPLATE """{{ .Prompt }}"""\n' in plain


def test_a_tokenizer_of_another_size_is_refused(learned, tmp_path):
    saved, _ = learned
    other = save(
        random_model(310, context_length=8, n_layer=1, n_head=1, n_embd=8),
        saved.tokenizer,
        tmp_path,
        {},
    )
    with pytest.raises(UserError, match="the model has 310 tokens, its tokenizer 300"):
        export_gguf(other.directory, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_failed_export_leaves_the_old_file(learned, tmp_path):
    saved, _ = learned
    output = tmp_path / "model.gguf"
    output.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(UserError, match=r"model\.gguf: File too large"):
            export_gguf(saved.directory, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert output.read_bytes() == b"old"
