"""The outputs of own-files: links to a user's own files, or a file that says none."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpt2.core.yaml_files import load_yaml
from gpt2.data.own_links import MAX_OTHER_BYTES, NONE
from gpt2.data.sources.local_files import OUTPUTS, is_output
from scripts.deps import ROOT
from stages.own_files import main
from tests import yaml12

LINKS = Path("data/own")
CORPUS = LINKS / "corpus.path"
ALL = ("corpus.path", "gpt2_weights.path", "instructions.path", "judge.model.file")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the smoke profile, in a subdirectory."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copy(ROOT / "profiles" / "smoke.yaml", "params.yaml")
    return repository


def run(**sections: Any) -> Result:
    values = load_yaml(Path("params.yaml")) | sections
    Path("params.yaml").write_text(yaml12.dumps(values), encoding="utf-8")
    return CliRunner().invoke(main, ["--links-dir", str(LINKS)])


def linked(**sections: Any) -> str:
    """The output of a run that succeeds."""
    result = run(**sections)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in LINKS.iterdir()) == sorted(ALL)
    return result.output


def refused(**sections: Any) -> str:
    """The message of a run that fails, and leaves all links as they were."""
    before = {path: path.lstat().st_ino for path in LINKS.rglob("*")}
    result = run(**sections)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert {path: path.lstat().st_ino for path in LINKS.rglob("*")} == before
    return result.stderr.removeprefix("error: ")


def file(path: object) -> dict[str, Any]:
    return {"source": "file", "path": str(path)}


def texts(folder: Path) -> Path:
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("One")
    (folder / "b" / "c.md").write_text("Two")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_without_own_files_there_is_the_same_file() -> None:
    assert "warning" not in linked()
    assert {(LINKS / name).read_text() for name in ALL} == {NONE}
    assert not any((LINKS / name).is_symlink() for name in ALL)


@pytest.mark.parametrize("folder", ["", "a folder/Bücher/", "../", "/"])
def test_a_file_in_any_folder_with_any_name(place: Path, folder: str) -> None:
    directory = place.parent if folder == "/" else Path(folder)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "my täxt, 1.txt").write_text("One")
    linked(corpus=file(directory / "my täxt, 1.txt"))
    [link] = CORPUS.iterdir()
    assert (link.name, link.read_text()) == ("my täxt, 1.txt", "One")
    assert link.is_symlink()


def test_the_repository_may_be_moved_with_the_files_in_it(place: Path) -> None:
    texts(Path("texts"))
    Path("records.json").write_text("[]", encoding="utf-8")
    linked(corpus=file("texts"), instructions=file(place / "records.json"))
    moved = place.rename(place.parent / "moved")
    assert (moved / CORPUS / "b" / "c.md").read_text() == "Two"
    assert (moved / LINKS / "instructions.path" / "records.json").read_text() == "[]"


def test_the_links_hold_where_data_lies_on_another_disk(place: Path) -> None:
    (place.parent / "disk").mkdir()
    Path("data").symlink_to(place.parent / "disk")
    Path("my.txt").write_text("One", encoding="utf-8")
    linked(corpus=file("my.txt"))
    assert (CORPUS / "my.txt").read_text() == "One"


def test_in_a_copy_of_the_repository_links_lead_to_the_original(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "my.txt").write_text("One")
    copy = place / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    shutil.copy("params.yaml", copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(place))
    linked(corpus=file("my.txt"))
    assert (CORPUS / "my.txt").readlink() == place / "my.txt"


@pytest.mark.parametrize("path", ["texts", "texts/*.txt", "texts/**/*.[tm]*"])
def test_a_folder_is_linked_whole_so_that_new_files_are_seen(path: str) -> None:
    texts(Path("texts"))
    Path("texts/.git").mkdir()
    Path("texts/.git/old").symlink_to("gone")
    assert "warning" not in linked(corpus=file(path))
    assert CORPUS.is_symlink()
    assert CORPUS.resolve() == Path("texts").resolve()


def test_all_that_can_be_named_is_linked(place: Path) -> None:
    texts(Path("texts"))
    texts(Path("dataset"))
    Path("judge.gguf").write_bytes(b"GGUF")
    checkpoint = place.parent / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        (checkpoint / name).write_text(name)
    judge = load_yaml(Path("params.yaml"))["judge"] | {"model": {"file": "judge.gguf"}}
    linked(
        corpus=file("texts/a.txt"),
        instructions={"source": "huggingface", "dataset": "dataset"},
        judge=judge,
        gpt2_weights={"size": "any", "source": "directory", "path": str(checkpoint)},
    )
    assert [path.name for path in CORPUS.iterdir()] == ["a.txt"]
    assert (LINKS / "instructions.path").resolve() == Path("dataset").resolve()
    assert (LINKS / "judge.model.file" / "judge.gguf").read_bytes() == b"GGUF"
    assert (LINKS / "gpt2_weights.path").resolve() == checkpoint


def test_two_sections_may_name_the_same_file() -> None:
    Path("both.jsonl").write_text(
        '{"text": "a", "instruction": "a", "output": "b"}\n', encoding="utf-8"
    )
    linked(corpus=file("both.jsonl"), instructions=file("both.jsonl"))
    for name in ("corpus.path", "instructions.path"):
        assert (LINKS / name / "both.jsonl").resolve() == Path("both.jsonl").resolve()


def test_links_change_their_kind_and_nothing_that_they_lead_to(place: Path) -> None:
    folder = texts(place.parent / "texts")
    folder.chmod(0o750)
    before = {path: path.lstat().st_mode for path in sorted(place.parent.glob("texts/**/*"))}
    for path in ("a.txt", "", "b/../a.txt", "*.txt", "b", ""):
        linked(corpus=file(folder / path))
    linked(corpus=load_yaml(ROOT / "profiles" / "smoke.yaml")["corpus"])
    assert CORPUS.read_text() == NONE
    assert {path: path.lstat().st_mode for path in before} == before
    assert folder.stat().st_mode & 0o777 == 0o750


def holds_outputs(folder: Path) -> None:
    shutil.rmtree(folder)


def has_a_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))


def has_a_broken_link(folder: Path) -> None:
    (folder / "b" / "old.txt.bak").symlink_to("gone")


def has_a_name_that_is_no_text(folder: Path) -> None:
    Path(folder, os.fsdecode(b"\xff.bin")).touch()


def is_another_repository(folder: Path) -> None:
    (folder / ".dvcignore").touch()


def has_much_else(folder: Path) -> None:
    with (folder / "video").open("wb") as hole:
        hole.truncate(MAX_OTHER_BYTES + 1)


def has_a_link_to_a_folder(folder: Path) -> None:
    texts(Path("elsewhere"))
    (folder / "linked").symlink_to(Path("elsewhere").resolve())


@pytest.mark.parametrize(
    ("spoil", "path", "reason"),
    [
        (holds_outputs, "*.txt", "the pipeline writes there"),
        (holds_outputs, "data/*.txt", "the pipeline writes there"),
        (has_a_socket, "texts", "texts/socket cannot be read"),
        (has_a_broken_link, "texts/*.txt", "old.txt.bak cannot be read"),
        (has_a_name_that_is_no_text, "texts", "?.bin cannot be read"),
        (is_another_repository, "texts", ".dvcignore belongs to another DVC repository"),
        (has_much_else, "texts/**/*.txt", "it holds much else, which DVC would have to read"),
        (has_a_link_to_a_folder, "texts/*/*.txt", "linked/a.txt is behind a link"),
    ],
)
def test_a_folder_that_dvc_cannot_watch_has_its_files_linked_one_by_one(
    place: Path, spoil: Callable[[Path], None], path: str, reason: str
) -> None:
    for name in ("mine.txt", "data/mine.txt", "texts/b/more.txt"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("Mine")
    (place / "texts" / "a.txt").write_text("One")
    spoil(place / "texts")
    output = linked(corpus=file(path))
    assert "warning: corpus.path: new files in " in output
    assert f"{reason}. Give them a folder of their own" in output
    links = [link for link in CORPUS.rglob("*") if link.is_file()]
    assert links
    assert all(link.is_symlink() and link.suffix == ".txt" for link in links)
    again = linked(corpus=file(path))
    assert again.splitlines()[:-1] == output.splitlines()[:-1]  # the last one has the seconds


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("corpus", file("gone.txt"), "corpus.path: "),
        ("instructions", file("gone/*.json"), "instructions.path: "),
        ("judge", {"backend": "llamacpp", "model": {"file": "gone"}}, "judge.model.file: "),
        (
            "gpt2_weights",
            {"size": "any", "source": "directory", "path": "gone"},
            "gpt2_weights.path: ",
        ),
    ],
)
def test_missing_files_are_reported_with_their_key(
    place: Path, section: str, value: object, key: str
) -> None:
    linked()
    message = refused(**{section: value})
    assert message.startswith(f"{key}{place}/gone")


@pytest.mark.parametrize("path", ["data/raw/corpus", "data/raw/*/*.txt", ".", "link/*.txt"])
def test_outputs_of_the_pipeline_are_refused(place: Path, path: str) -> None:
    texts(Path("data/raw/corpus"))
    Path("link").symlink_to("data/raw/corpus")
    message = refused(corpus=file(path))
    assert message.startswith("corpus.path: ")
    assert "the pipeline itself writes there" in message


def test_every_output_in_dvc_yaml_is_known_as_one() -> None:
    for stage in load_yaml(ROOT / "dvc.yaml")["stages"].values():
        for key in ("outs", "metrics", "plots"):
            for output in stage.get(key, []):
                name = output if isinstance(output, str) else next(iter(output))
                assert is_output(Path(name), Path())
    assert not is_output(Path("data/mine.txt"), Path())
    assert all(not output.is_absolute() for output in OUTPUTS)
