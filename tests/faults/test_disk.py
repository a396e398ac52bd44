"""A full disk, a limit on files, no right to write: one message, and the old output stays."""

import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.shards import write_shards
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.export import export_gguf
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.training.checkpoint import RunDirectory
from scripts.deps import ROOT
from stages import tokenize
from tests.hugging_face import TEXT

FULL = Path("/dev/full")
NOBODY = 65534


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(vocab_size=300, context_length=16, n_layer=1, n_head=2, n_embd=32))


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A directory that everybody may read; pytest's own ones are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def place(readable: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=readable) as name:
        Path(name).chmod(0o755)
        yield Path(name)


Writer = Callable[[Path], None]


@pytest.fixture(scope="module")
def writers(model: GPT2, readable: Path) -> dict[str, Writer]:
    """Everything that writes an output; each gets the place where it goes."""
    tokenizer = train_bpe([TEXT], 300)
    rows = [(split, tokenizer.encode_documents(400 * [TEXT])) for split in ("train", "validation")]
    whole, tokenizer_directory = readable / "model", readable / "tokenizer"
    tokenizer_directory.mkdir()
    tokenizer.save(tokenizer_directory)
    weights.save(model, whole, tokenizer_directory, tokenizer.end_of_text, {})
    for path in readable.rglob("*"):
        path.chmod(0o755)

    def shards(output: Path) -> None:
        with files.new_directory(output) as new:
            write_shards(new, rows, tokenizer, shard_tokens=1_000_000)

    return {
        "text": lambda output: files.write_text(output, TEXT * 100),
        "sealed text": lambda output: files.write_sealed(output, TEXT * 100),
        "json": lambda output: files.write_json(output, [TEXT] * 100),
        "shards": shards,
        "model": lambda output: weights.save(
            model, output, tokenizer_directory, tokenizer.end_of_text, {}
        ),
        "checkpoint": lambda output: RunDirectory(output, "pretrain", {}).save(
            2, {}, dict(model.state_dict())
        ),
        "gguf": lambda output: export_gguf(whole, output, "f32"),
    }


NAMES = ["text", "sealed text", "json", "shards", "model", "checkpoint", "gguf"]


def contents(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def refused(write: Callable[[], None], place: Path, *words: str) -> None:
    """``write`` says what was wrong in one message; ``place`` is as it was, with nothing beside."""
    before = contents(place)
    with pytest.raises(UserError) as caught:
        write()
    for word in words:
        assert word in str(caught.value)
    assert str(place) in str(caught.value)
    assert contents(place) == before


@contextmanager
def limited(n_bytes: int) -> Iterator[None]:
    """No file may grow longer. Python ignores the signal, so that writing fails instead."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@contextmanager
def without_right(place: Path) -> Iterator[None]:
    """As somebody who may read but not write: root, whom permissions do not stop, as nobody."""
    place.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(NOBODY)
        except OSError as error:
            pytest.skip(f"root cannot become another user here: {error}")
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        place.chmod(0o755)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of 16 kB at ``place``, where this machine lets us have one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        # Lazily: what failed may still have a file open there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_on_files_leaves_the_old_output(
    writers: dict[str, Writer], tmp_path: Path, name: str
) -> None:
    place, write = tmp_path / "place", writers[name]
    write(place / "output")

    def again() -> None:
        with limited(5_000):
            write(place / "output")

    refused(again, place, "File too large", "ulimit -f")
    write(place / "output")


@pytest.mark.parametrize("missing", [1, 10_000, 40_000])
def test_a_limit_anywhere_in_a_gguf_file_is_seen(
    writers: dict[str, Writer], tmp_path: Path, missing: int
) -> None:
    output = tmp_path / "place" / "model.gguf"
    writers["gguf"](output)

    def again() -> None:
        with limited(output.stat().st_size - missing):
            writers["gguf"](output)

    refused(again, output.parent, f"{output}: File too large")


@pytest.mark.parametrize("name", NAMES)
def test_no_right_to_write_leaves_the_old_output(
    writers: dict[str, Writer], place: Path, tmp_path: Path, name: str
) -> None:
    write = writers[name]
    write(tmp_path / "output")  # imports all that it needs: nobody may not be able to
    (place / "old").write_text("old")

    def without() -> None:
        with without_right(place):
            write(place / "output")

    refused(without, place, "Permission denied", "Change the permissions")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.faults
def test_a_full_disk_leaves_the_old_output(
    writers: dict[str, Writer], tmp_path: Path, name: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with small_disk(place):
        (place / "old").write_text("old")
        refused(lambda: writers[name](place / "output"), place, "No space left", "Make room")


@pytest.mark.skipif(
    not (FULL.exists() and stat.S_ISCHR(FULL.stat().st_mode)), reason="no /dev/full here"
)
def test_a_full_device_leaves_the_old_output(writers: dict[str, Writer], tmp_path: Path) -> None:
    """What is written under a temporary name goes to a device that is always full."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("text", "gguf"):
        output = place / name
        output.write_text("old")
        output.with_name(f".{name}.{os.getpid()}.tmp").symlink_to(FULL)
        with pytest.raises(UserError, match=rf"{output}: No space left on device\. Make room"):
            writers[name](output)
        assert output.read_text() == "old"
    with (
        pytest.raises(UserError, match=rf"{place / 'new'}: No space left on device"),
        files.new_directory(place / "new") as new,
    ):
        (new / "data").symlink_to(FULL)
        (new / "data").write_text("anything")
    assert {path.name for path in place.iterdir()} == {"text", "gguf"}


def test_a_stage_on_a_limit_says_so_and_keeps_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copy(ROOT / "profiles" / "smoke.yaml", "params.yaml")
    with files.new_directory(Path("corpus"), {"documents": 200}) as new:
        lines = (f'{{"name": "{n}", "text": "document {n} of many"}}\n' for n in range(200))
        files.write_text(new / "documents.jsonl", "".join(lines))
    with files.new_directory(Path("raw")):
        pass
    arguments = "--corpus-dir corpus --raw-tokenizer-dir raw --tokenizer-dir new --tokens-dir out"
    assert CliRunner().invoke(tokenize.main, arguments).exit_code == 0
    before = contents(Path("new")) | contents(Path("out"))
    with limited(3_000):
        result = CliRunner().invoke(tokenize.main, arguments)
    assert result.exit_code == 1
    [message] = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "File too large. Raise the limit on the size of a file (ulimit -f)" in message
    assert contents(Path("new")) | contents(Path("out")) == before
    assert not [*Path().glob(".*.tmp"), *Path().glob(".*.old")]
