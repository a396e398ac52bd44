"""Data never runs as code, nothing listens beyond this machine, and secrets are not told."""

import io
import pickle
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors import SafetensorError

from gpt2.cli.main import main
from gpt2.core import files
from gpt2.core.device import DeviceParams
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.core.yaml_files import load_yaml
from gpt2.data.instructions import load_records
from gpt2.data.shards import Tokens, write_shards
from gpt2.data.sources import local_files
from gpt2.data.sources.local_files import FileCorpus
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import JudgeParams, LlamaEvalParams
from gpt2.inference import text_model
from gpt2.inference.importing.directory import import_checkpoint
from gpt2.model import weights
from gpt2.tracking.tracker import track
from gpt2.training.checkpoint import RunDirectory
from scripts.deps import ROOT
from tests.gpt2.evaluation.judge.servers import free_port
from tests.hugging_face import TEXT, write_checkpoint
from tests.tiny_llama import write_tiny_llama

SECRET = "hunter2"


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def pickled(canary: Canary) -> bytes:
    return pickle.dumps(canary)


def as_torch_saves_it(canary: Canary) -> bytes:
    content = io.BytesIO()
    torch.save({"wte.weight": canary}, content)
    return content.getvalue()


def as_older_torch_saved_it(canary: Canary) -> bytes:
    content = io.BytesIO()
    torch.save({"wte.weight": canary}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def as_numpy_saves_it(canary: Canary) -> bytes:
    content = io.BytesIO()
    np.savez(content, np.array([canary], dtype=object), allow_pickle=True)
    return content.getvalue()


SPELLINGS = [pickled, as_torch_saves_it, as_older_torch_saved_it, as_numpy_saves_it]


def test_the_canary_sings(tmp_path: Path) -> None:
    pickle.loads(pickled(Canary(tmp_path / "sang"))).close()  # noqa: S301 (that it would run)
    (tmp_path / "sang").unlink()
    content = io.BytesIO(as_torch_saves_it(Canary(tmp_path / "sang")))
    torch.load(content, weights_only=False)["wte.weight"].close()
    assert (tmp_path / "sang").exists()


def offered(directory: Path, name: str, content: bytes) -> None:
    """Put ``content`` under a name into a directory, with a manifest that vouches for it."""
    old = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    with files.new_directory(directory) as new:
        for other in old.keys() - {files.MANIFEST}:
            (new / other).write_bytes(old[other])
        (new / name).write_bytes(content)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("foreign") / "model"
    write_checkpoint(directory)
    return directory


def as_nanogpt_saves_it(canary: Canary) -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"transformer.wte.weight": canary}, "model_args": {}}, content)
    return content.getvalue()


@pytest.mark.parametrize("spelling", [*SPELLINGS, as_nanogpt_saves_it])
def test_no_pickle_in_an_imported_checkpoint_runs(
    model: Path, tmp_path: Path, spelling: Callable[[Canary], bytes]
) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(spelling(Canary(tmp_path / "sang")))
    with pytest.raises(UserError):
        import_checkpoint(path, tmp_path / "out", model, "none", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"ckpt.pt"}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_pickle_in_a_model_runs(
    model: Path, tmp_path: Path, spelling: Callable[[Canary], bytes]
) -> None:
    content = spelling(Canary(tmp_path / "sang"))
    for number, name in enumerate(
        (
            *("model.safetensors", "pytorch_model.bin", "model.pt", "config.json", "vocab.json"),
            *("merges.txt", "tokenizer.json", "tokenizer_config.json", "training.json"),
            *("generation_config.json", "manifest.json"),
        )
    ):
        directory = shutil.copytree(model, tmp_path / f"model{number}")
        if name in ("pytorch_model.bin", "model.pt"):
            (directory / "model.safetensors").unlink()
        if name == "tokenizer.json":
            (directory / "vocab.json").unlink()
        if name == "manifest.json":
            (directory / name).write_bytes(content)
        else:
            offered(directory, name, content)
        for read in (
            lambda directory=directory: weights.load(directory),
            lambda directory=directory: text_model.load(directory, DeviceParams(device="cpu")),
            lambda directory=directory: Tokenizer.load(directory),
        ):
            with suppress(UserError):
                read()
    assert not (tmp_path / "sang").exists()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_pickle_among_data_runs(tmp_path: Path, spelling: Callable[[Canary], bytes]) -> None:
    content = spelling(Canary(tmp_path / "sang"))

    checkpoint = RunDirectory(tmp_path, "pretrain", {})
    for name in ("tensors.safetensors", "state.json"):
        checkpoint.save(1, {}, {"x": torch.ones(1)})
        offered(checkpoint.path / "step-00000001", name, content)
        with suppress(UserError, SafetensorError):
            checkpoint.load()

    tokenizer = train_bpe([TEXT], 300)
    facts: dict[str, object] = {}
    rows = [(split, tokenizer.encode_documents([TEXT])) for split in ("train", "validation")]
    with files.new_directory(tmp_path / "tokens", facts) as new:
        facts |= write_shards(new, rows, tokenizer, shard_tokens=1000)
        (new / "train/00000.arrow").write_bytes(content)
    with pytest.raises(UserError, match="not a shard of tokens"):
        Tokens.open(tmp_path / "tokens", "train")

    names = ("text.txt", "rows.json", "rows.jsonl", "rows.parquet", "rows.zip", "rows.pkl")
    for name in (*names, "rows.npy", "rows.npz", "params.yaml"):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (
            lambda path=path: load_yaml(path),
            lambda path=path: load_records(path),
            lambda path=path: files.read_json(path),
            lambda name=name: list(local_files.load_rows(corpus(name), tmp_path).rows),
        ):
            with suppress(UserError):
                read()
    assert not (tmp_path / "sang").exists()


def corpus(name: str) -> FileCorpus:
    return parse(FileCorpus, {"source": "file", "path": name}, "corpus")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"a: !!python/object/apply:builtins.open [{tmp_path / 'sang'}, w]\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_yaml(path)
    assert not (tmp_path / "sang").exists()


def listening(process: psutil.Process) -> set[str]:
    return {
        connection.laddr.ip
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_the_judge_in_this_process_is_reached_from_this_machine_only(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model.gguf")
    before = listening(psutil.Process())
    judge = LlamaCppJudge(tmp_path / "model.gguf", threads=1, evaluation=LlamaEvalParams())
    judge.judge("How good is it?")
    assert listening(psutil.Process()) - before <= {"127.0.0.1", "::1"}


def test_servers_are_started_for_this_machine_only() -> None:
    [host] = [option for option in main.commands["serve"].params if option.name == "host"]
    assert host.default == "127.0.0.1"
    for line in (ROOT / "Makefile").read_text().splitlines():
        if re.search(r"mlflow (ui|server)", line) and not line.startswith("#"):
            assert "--host 127.0.0.1" in line


def test_nothing_names_every_interface() -> None:
    sources = [ROOT / "Makefile", ROOT / "dvc.yaml", *(ROOT / "src").rglob("*.py")]
    for folder in ("stages", "scripts", "profiles"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    for path in sources:
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "section",
    [
        {"backend": "openai", "model": "m", "base_url": f"http://me:{SECRET}@localhost/v1"},
        {"backend": "ollama", "host": f"http://me:{SECRET}@localhost"},
    ],
)
def test_a_password_in_an_address_is_refused_and_not_told(section: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"//\*\*\*@localhost") as caught:
        parse(JudgeParams, section, "judge")
    assert SECRET not in str(caught.value)


def test_a_password_of_the_tracking_server_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"http://me:{SECRET}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with track("pretrain", tmp_path, {"pretrain": {"lr": 1}}, ["pretrain"], None) as tracker:
        tracker.begin()
    assert "tracking is off" in caplog.text
    assert SECRET not in caplog.text
