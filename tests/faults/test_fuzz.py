"""Malformed files at our readers: a value or a `UserError`, nothing else, in bounded memory."""

import hashlib
import io
import json
import math
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.model_files import INDEX
from gpt2.core.yaml_files import load_yaml
from gpt2.data.shards import Tokens, write_shards
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import ADDED, CONFIG, MERGES, NAMES, VOCAB, WHOLE
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.importing.directory import import_checkpoint
from gpt2.model import weights
from scripts.deps import ROOT
from tests.hugging_face import TEXT, write_checkpoint, write_model, write_newer_checkpoint

EXAMPLES = pytest.mark.parametrize("n_examples", [30, pytest.param(400, marks=pytest.mark.faults)])
MEGABYTE = 2**20
YAML = [
    *("a: ", "- ", "? ", ": ", "\n", "  ", "\t", "[", "]", "{", "}", ",", "'", '"', "|", ">", "#"),
    *("&x ", "*x", "<<: ", "---", "%YAML 1.3\n", "=", "~", "\0", "\x85", "\ud7ff", "1e5", ".inf"),
    *("2026-13-45", "2026-01-01 99:99:99", "0x_", "0b_", "12:99:61", "9" * 5000, "yes"),
    *("!!int ", "!!float ", "!!bool maybe", "!!null ", "!!timestamp never", "!!binary é", "!!set "),
    *("!!omap ", "!!pairs ", "!!python/object/apply:os.system ", "!!str ", "!unknown "),
]
JSON = ["[", "]", "{", "}", ",", ":", '"', '"a"', "\\", "\\ud800", "NaN", "-", "1e999", "9" * 5000]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
"""Anything that JSON can hold."""


def fuzz(check: Callable[[Any], None], inputs: st.SearchStrategy[Any], n_examples: int) -> None:
    """``check`` many inputs, the same ones every time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    plan = settings(
        max_examples=n_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=checks,
    )
    plan(given(inputs)(check))()


def read(reader: Callable[[], object]) -> None:
    """A value or a `UserError`: any other exception fails the test."""
    try:
        reader()
    except UserError as error:
        assert str(error)


def pieces(words: list[str]) -> st.SearchStrategy[bytes]:
    """Texts of the format's own words, and bytes that are no text at all."""
    texts = st.lists(st.sampled_from(words) | st.text(max_size=3), max_size=15).map("".join)
    return texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with some bytes changed, cut out or put in."""
    place = st.integers(0, len(content))
    change = st.tuples(place, st.integers(0, 30), st.binary(max_size=12))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        result = content
        for start, length, new in changes:
            result = result[:start] + new + result[start + length :]
        return result

    return st.lists(change, min_size=1, max_size=4).map(apply)


def changed(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one of the values in it replaced by anything, or left out."""
    options = [VALUES]
    if isinstance(value, dict):
        for key in value:
            rest = {other: value[other] for other in value if other != key}
            options.append(st.just(rest))
            options.append(changed(value[key]).map(lambda new, key=key: {**value, key: new}))
    if isinstance(value, list):
        for index in range(min(len(value), 3)):
            options.append(
                changed(value[index]).map(lambda new, i=index: [*value[:i], new, *value[i + 1 :]])
            )
    return st.one_of(options)


@EXAMPLES
def test_yaml(tmp_path: Path, n_examples: int) -> None:
    path = tmp_path / "params.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(lambda: load_yaml(path))

    real = (ROOT / "profiles" / "smoke.yaml").read_bytes()
    fuzz(check, pieces(YAML) | damaged(real[:400]), n_examples)


@EXAMPLES
def test_json(tmp_path: Path, n_examples: int) -> None:
    path = tmp_path / "metrics.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(lambda: files.read_json(path))

    fuzz(check, pieces(JSON) | damaged(b'{"loss": 1.5, "by": {"kind": [1, null]}}'), n_examples)


def seal(directory: Path, manifest: Any) -> None:
    """Write a manifest as if we had written it: the sha256 of what stands before it ends it."""
    content = json.dumps(manifest, indent=2).removesuffix("\n}")
    digest = hashlib.sha256(content.encode()).hexdigest()
    (directory / files.MANIFEST).write_text(f'{content},\n  "seal": "{digest}"\n}}\n')


def use(directory: Path) -> None:
    """Read a split whole."""
    tokens = Tokens.open(directory, "train")
    tokens.window(0, len(tokens)).sum()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    tokenizer = train_bpe([TEXT], 300)
    facts: dict[str, object] = {}
    rows = [(split, tokenizer.encode_documents([TEXT])) for split in ("train", "validation")]
    with files.new_directory(tmp_path / "tokens", facts) as new:
        facts |= write_shards(new, rows, tokenizer, shard_tokens=50)
    return tmp_path / "tokens"


@EXAMPLES
def test_manifests_that_are_sealed_but_say_anything(shards: Path, n_examples: int) -> None:
    use(shards)

    def check(manifest: Any) -> None:
        seal(shards, manifest)
        read(lambda: use(shards))

    fuzz(check, changed(files.read_manifest(shards)), n_examples)


@EXAMPLES
def test_bytes_of_a_manifest(shards: Path, n_examples: int) -> None:
    path = shards / files.MANIFEST
    whole = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        if content != whole:
            with pytest.raises(UserError):
                files.read_manifest(shards)

    fuzz(check, damaged(whole) | pieces(JSON), n_examples)


@EXAMPLES
def test_arrow_files_that_the_manifest_vouches_for(shards: Path, n_examples: int) -> None:
    manifest = files.read_manifest(shards)
    path = shards / "train/00000.arrow"
    whole = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        manifest["files"]["train/00000.arrow"]["sha256"] = files.sha256(path)
        seal(shards, manifest)
        read(lambda: use(shards))

    fuzz(check, damaged(whole) | st.binary(max_size=60), n_examples)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


def load(directory: Path) -> None:
    weights.load_tokenizer(directory, weights.load(directory, foreign=True))


@EXAMPLES
def test_configs_of_models(foreign: Path, n_examples: int) -> None:
    path = foreign / "config.json"

    def check(config: Any) -> None:
        path.write_text(json.dumps(config))
        read(lambda: load(foreign))

    load(foreign)
    fuzz(check, changed(files.read_json(path)), n_examples)


def safetensors(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@EXAMPLES
def test_safetensors(foreign: Path, n_examples: int) -> None:
    path = foreign / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(lambda: load(foreign))

    headers = changed(header).map(lambda new: safetensors(new, data))
    fuzz(check, headers | damaged(whole[: 8 + length]) | st.binary(max_size=60), n_examples)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 16, 48, 64, 300]), max_size=4).filter(
    lambda shape: math.prod(shape) < 10**5
)
DTYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)


@EXAMPLES
def test_tensors_of_any_shape_and_type(foreign: Path, n_examples: int) -> None:
    path = foreign / "model.safetensors"
    whole = load_file(path)
    prefix = "transformer." if any(name.startswith("transformer.") for name in whole) else ""
    extra = ("attn.bias", "attn.masked_bias", "lm_head.weight", "h.7.ln_1.bias", "h.x", "h.")
    names = st.sampled_from([*whole, *(f"{prefix}h.0.{name}" for name in extra), *extra])

    def check(replaced: dict[str, tuple[list[int], torch.dtype]]) -> None:
        new = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in replaced.items()}
        save_file({**whole, **new}, path)
        read(lambda: load(foreign))

    fuzz(check, st.dictionaries(names, st.tuples(SHAPES, DTYPES), max_size=3), n_examples)


@EXAMPLES
def test_tokenizers_in_two_files(foreign: Path, n_examples: int) -> None:
    vocab, merges = (foreign / VOCAB).read_bytes(), (foreign / MERGES).read_bytes()

    def check(contents: tuple[bytes, bytes]) -> None:
        for name, content in zip((VOCAB, MERGES), contents, strict=True):
            (foreign / name).write_bytes(content)
        read(lambda: Tokenizer.load(foreign))

    changed_vocab = changed(dict(list(json.loads(vocab).items())[:5])).map(json.dumps)
    others = damaged(vocab) | pieces(JSON) | changed_vocab.map(str.encode)
    pairs = st.tuples(others, st.just(merges)) | st.tuples(
        st.just(vocab), damaged(merges) | st.binary(max_size=40)
    )
    fuzz(check, pairs, n_examples)


@EXAMPLES
def test_tokenizers_in_one_file(tmp_path: Path, n_examples: int) -> None:
    write_newer_checkpoint(tmp_path / "model")
    path = tmp_path / "model" / WHOLE
    whole = json.loads(path.read_text())
    model = whole["model"]
    model["merges"], model["vocab"] = model["merges"][:3], dict(list(model["vocab"].items())[:5])

    def check(content: str) -> None:
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        read(lambda: Tokenizer.load(tmp_path / "model"))

    new = changed(model).map(lambda model: json.dumps({**whole, "model": model}))
    fuzz(check, new | changed(whole).map(json.dumps), n_examples)


@EXAMPLES
@pytest.mark.parametrize("name", [CONFIG, ADDED, NAMES, "generation_config.json"])
def test_what_a_tokenizer_has_beside_its_vocabulary(
    foreign: Path, name: str, n_examples: int
) -> None:
    token = {"content": "[PAD]", "lstrip": False, "special": True}
    real = {
        CONFIG: {"eos_token": token, "pad_token": "[PAD]", "added_tokens_decoder": {"300": token}},
        ADDED: {"[PAD]": 300, "<|im_start|>": 301},
        NAMES: {"eos_token": "[PAD]", "additional_special_tokens": ["<|im_start|>", token]},
        "generation_config.json": {"eos_token_id": [299]},
    }

    def check(content: Any) -> None:
        (foreign / name).write_text(json.dumps(content))
        read(lambda: Tokenizer.load(foreign).encode("a [PAD] b"))
        read(lambda: load(foreign))

    fuzz(check, changed(real[name]), n_examples)


@EXAMPLES
def test_indices_of_shards(tmp_path: Path, n_examples: int) -> None:
    write_model(tmp_path / "model", shard="8KB")
    path = tmp_path / "model" / INDEX

    def check(content: Any) -> None:
        path.write_text(json.dumps(content))
        read(lambda: weights.load(tmp_path / "model", foreign=True))

    index = files.read_json(path)
    few = dict(list(index["weight_map"].items())[:3])
    fuzz(check, changed({"weight_map": few}) | changed(index), n_examples)


@EXAMPLES
def test_checkpoints_of_other_programs(foreign: Path, tmp_path: Path, n_examples: int) -> None:
    model = weights.load(foreign, foreign=True)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 64, "vocab_size": 300}
    nanogpt = io.BytesIO()
    torch.save({"model": model.state_dict(), "model_args": shape}, nanogpt)
    llmc = struct.pack("<256i", 20240326, 3, 64, 300, 2, 2, 16, 384, *[0] * 248) + bytes(5000)
    path, output = tmp_path / "checkpoint", tmp_path / "out"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(lambda: import_checkpoint(path, output, foreign, "tanh", tmp_path))
        shutil.rmtree(output, ignore_errors=True)

    whole = nanogpt.getvalue()
    fuzz(check, damaged(whole) | damaged(llmc[:40]) | damaged(llmc), n_examples)


DEEP = 100_000 * "["
ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]\n" for n in range(1, 12)
)


def bomb_in_the_config(directory: Path) -> None:
    config = files.read_json(directory / "config.json")
    huge = {"n_layer": 10**9, "n_embd": 2 * 10**9, "vocab_size": 10**15, "n_positions": 10**12}
    files.write_json(directory / "config.json", {**config, **huge})


def bomb_of_layers(directory: Path) -> None:
    config = files.read_json(directory / "config.json")
    files.write_json(directory / "config.json", {**config, "n_layer": 10**9})


def bomb_of_a_mask(directory: Path) -> None:
    """Positions without channels take no room in the file, but a mask of them would."""
    tensors = load_file(directory / "model.safetensors")
    name = next(name for name in tensors if name.endswith("wpe.weight"))
    block = name.replace("wpe.weight", "h.0.attn.bias")
    bomb = {name: torch.zeros(200_000, 0), block: torch.ones(1, 1, 1, 1)}
    save_file({**tensors, **bomb}, directory / "model.safetensors")


def bomb_in_the_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + 40 * b" ")


@pytest.mark.parametrize(
    "bomb", [bomb_in_the_config, bomb_of_layers, bomb_of_a_mask, bomb_in_the_header]
)
def test_a_model_that_claims_to_be_huge(foreign: Path, bomb: Callable[[Path], None]) -> None:
    load(foreign)
    bomb(foreign)
    refused_in_little_memory(lambda: load(foreign))


@pytest.mark.parametrize("text", [ALIASES, f"a: {DEEP}", "a: &a [*a]", "9: " + 10**5 * "9"])
def test_yaml_that_grows(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    refused_in_little_memory(lambda: load_yaml(tmp_path / "params.yaml"))


@pytest.mark.parametrize("text", [DEEP, 20_000 * '{"a":', 10**5 * "9"])
@pytest.mark.parametrize("name", [VOCAB, WHOLE])
def test_json_that_grows(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / MERGES).write_text("")
    refused_in_little_memory(lambda: Tokenizer.load(tmp_path))
    refused_in_little_memory(lambda: files.read_json(tmp_path / name))


def refused_in_little_memory(reader: Callable[[], object]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    with pytest.raises(UserError):
        reader()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * MEGABYTE / 1024


def test_shards_outside_of_their_directory(shards: Path, tmp_path: Path) -> None:
    shutil.copy(shards / "train/00000.arrow", tmp_path / "elsewhere.arrow")
    manifest = files.read_manifest(shards)
    manifest["splits"]["train"]["shards"][0]["file"] = "../elsewhere.arrow"
    seal(shards, manifest)
    with pytest.raises(UserError, match=r"unknown shard files: \['\.\./elsewhere\.arrow'\]"):
        Tokens.open(shards, "train")
