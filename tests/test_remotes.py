"""What docs/remotes.md says: each line as DVC takes it, and a local remote in use."""

import shutil
from pathlib import Path

import pytest

from tests.documents import DOCS, blocks, commands
from tests.pipeline import Pipeline, Repository, started

DOCUMENT = DOCS / "remotes.md"
COMMANDS = commands(DOCUMENT)
LOCAL = COMMANDS[: COMMANDS.index("dvc status") + 1]


def test_a_fresh_clone_pulls_and_trains_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    ours = Repository(tmp_path / "ours")
    theirs = Repository(tmp_path / "theirs")
    shutil.copytree(pipeline.directory, ours.directory, symlinks=True)
    place = str(tmp_path / "storage")
    for line in LOCAL:
        if line == "dvc pull":
            ours.call("git", "clone", "--quiet", str(ours.directory), str(theirs.directory))
        repository = theirs if theirs.directory.exists() else ours
        output = repository.call("sh", "-c", line.replace("/mnt/shared/gpt2", place))
    assert "up to date" in output
    model = "data/models/finetuned/model.safetensors"
    assert (theirs.directory / model).read_bytes() == (ours.directory / model).read_bytes()
    assert theirs.repro() == []
    # Without a file of their own that was read.
    shutil.rmtree(theirs.directory / "data" / "own")
    (theirs.directory / "judge.gguf").unlink()
    assert "judge.model.file: " in theirs.run("dvc", "repro").stderr
    assert started(theirs.call("dvc", "repro", "--allow-missing")) == []
    theirs.set("generate_responses.max_records", 5)
    assert started(theirs.call("dvc", "repro", "--allow-missing")) == [
        "generate-responses",
        "llama3-eval",
        "report",
    ]


@pytest.mark.parametrize("scheme", ["s3", "gs", "ssh"])
def test_dvc_knows_the_settings_of_each_remote(scheme: str, tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.start()
    [block] = [block for block in blocks(DOCUMENT, "sh") if f"dvc-{scheme}==" in block]
    for line in block.splitlines()[1:]:
        repository.call("sh", "-c", line)
    # DVC checks the settings when it reads them.
    assert f"{scheme}://" in repository.call("dvc", "remote", "list")
