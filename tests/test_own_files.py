"""DVC knows what is in a user's own files: real `dvc` in a repository whose data all is own."""

import json
from pathlib import Path

import pytest

from tests.hugging_face import write_checkpoint
from tests.pipeline import Pipeline, started
from tests.tiny_llama import write_tiny_llama

TARGETS = ("download", "download-gpt2-weights")
READING = ["own-files", "download"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Everything has been read once."""
    directory = tmp_path_factory.mktemp("own") / "a repository"
    directory.mkdir()
    made = Pipeline(directory)
    write_texts(made.directory / "texts", "one", "two")
    write_records(made.directory / "my.json", "v1")
    made.set("corpus", {"source": "file", "path": "texts"})
    made.set("instructions", {"source": "file", "path": "my.json", "limit": None})
    assert repro(made) == ["own-files", *TARGETS]
    assert "up to date" in status(made)
    made.commit()
    return made


def write_texts(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(f"This is text {name}. " * 20)


def write_records(path: Path, version: str) -> None:
    records = [
        {"instruction": f"{version} question {n}", "output": f"{version} answer {n}"}
        for n in range(100)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")


def repro(repository: Pipeline) -> list[str]:
    return sorted(
        started(repository.call("env", "MLFLOW_TRACKING_URI=off", "dvc", "repro", *TARGETS)),
        key=["own-files", *TARGETS].index,
    )


def status(repository: Pipeline) -> str:
    return repository.call("dvc", "status", "own-files", *TARGETS)


def corpus(repository: Pipeline) -> list[str]:
    lines = (repository.directory / "data/raw/corpus/documents.jsonl").read_text().splitlines()
    return [json.loads(line)["name"] for line in lines]


def instructions(repository: Pipeline) -> list[str]:
    return (repository.directory / "data/raw/instructions.jsonl").read_text().splitlines()


def state(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What a change, a copy or a move of something would change."""
    found = {path: path.lstat() for path in (folder, *folder.iterdir())}
    return {path: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}


def test_old_data_does_not_come_back_with_an_old_parameter(repository: Pipeline) -> None:
    place = repository.directory / "my.json"
    repository.set("instructions.limit", 50)
    assert repro(repository) == READING
    repository.set("instructions.limit", None)
    write_records(place, "v2")
    assert repro(repository) == READING
    repository.set("instructions.limit", 50)
    assert repro(repository) == READING
    assert len(instructions(repository)) == 50
    assert all("v2" in line for line in instructions(repository))
    repository.set("instructions.limit", None)
    write_records(place, "v1")
    assert repro(repository) == ["own-files"]  # the rest is restored
    assert all("v1" in line for line in instructions(repository))


def test_new_files_in_a_directory_and_for_a_pattern_are_noticed(repository: Pipeline) -> None:
    write_records(repository.directory / "records" / "v1.json", "v1")
    old = repository.set("instructions.path", "records/*.json")
    repro(repository)
    write_records(repository.directory / "records" / "v2.json", "v2")
    write_texts(repository.directory / "texts", "three")
    said = status(repository)
    for name in ("corpus.path", "instructions.path"):
        assert f"modified:           data/own/{name}" in said
    assert repro(repository) == READING
    assert corpus(repository) == ["one.txt", "three.txt", "two.txt"]
    assert len(instructions(repository)) == 200
    (repository.directory / "texts" / "three.txt").unlink()
    repository.set("instructions.path", old)
    assert repro(repository) == ["own-files"]
    assert corpus(repository) == ["one.txt", "two.txt"]


def test_a_checkpoint_and_a_judge_are_watched_each_for_its_stage(repository: Pipeline) -> None:
    folder = repository.directory / "checkpoint"
    write_checkpoint(folder)
    old = {
        key: repository.set(f"gpt2_weights.{key}", value)
        for key, value in {"size": "any", "source": "directory", "path": "checkpoint"}.items()
    }
    assert repro(repository) == ["own-files", "download-gpt2-weights"]
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert "download:" not in (said := status(repository))
    assert "modified:           data/own/gpt2_weights.path" in said
    write_tiny_llama(repository.directory / "judge.gguf", seed=1)
    assert "modified:           data/own/judge.model.file" in status(repository)
    for key, value in old.items():
        repository.set(f"gpt2_weights.{key}", value)
    assert repro(repository) == READING
    judge = repository.directory / "data/raw/judge/model.gguf"
    assert judge.read_bytes() == (repository.directory / "judge.gguf").read_bytes()


@pytest.mark.slow
def test_files_at_the_root_are_watched_one_by_one(repository: Pipeline) -> None:
    root = repository.directory
    (root / "mine.txt").write_text("This is mine. " * 20)
    old = repository.set("corpus.path", "*ine.txt")
    repro(repository)
    (root / "fine.txt").write_text("This is new. " * 20)
    (root / "mine.txt").write_text("This is changed. " * 20)
    assert "modified:           data/own/corpus.path" in status(repository)
    repro(repository)
    assert corpus(repository) == ["fine.txt", "mine.txt"]
    assert "up to date" in status(repository)
    (root / "fine.txt").unlink()
    assert "data/own/corpus.path/fine.txt" in repository.run("dvc", "status").stderr
    repository.call("dvc", "repro", "--force", "own-files")
    repro(repository)
    assert corpus(repository) == ["mine.txt"]
    repository.set("corpus.path", old)
    repro(repository)


@pytest.mark.slow
def test_what_is_ones_own_stays_where_it_is_and_is_nowhere_else(repository: Pipeline) -> None:
    """Neither DVC's cache nor git gets a copy, and nothing is deleted or changed."""
    folder = repository.directory.parent / "outside"
    write_texts(folder, "secret")
    folder.chmod(0o750)
    (folder / "unread.bin").write_bytes(b"not for the corpus")
    old = repository.set("corpus.path", str(folder))
    before = state(folder)
    repository.call("dvc", "config", "core.autostage", "true")
    for command in (
        ("repro", "--force", *TARGETS),
        ("exp", "run", "--quiet", "-S", "instructions.limit=60", *TARGETS),
        ("exp", "run", "--temp", "--quiet", "-S", "instructions.limit=70", *TARGETS),
        ("commit", "--force", "own-files", "download"),
        ("checkout", "own-files", "download"),
    ):
        repository.call("env", "MLFLOW_TRACKING_URI=off", "dvc", *command)
    repository.call("git", "checkout", "--quiet", "--", ".dvc/config")
    assert state(folder) == before
    cached = filter(Path.is_file, (repository.directory / ".dvc/cache/files").rglob("*"))
    assert b"not for the corpus" not in {path.read_bytes() for path in cached}
    in_git = repository.call("git", "log", "--all", "--name-only", "--format=")
    assert "params.yaml" in in_git
    assert "data/own" not in in_git
    repository.call("git", "checkout", "--quiet", "--", "params.yaml")
    repository.set("corpus.path", old)
    repro(repository)
    assert state(folder) == before


def test_a_file_that_is_gone_is_named_with_its_key(repository: Pipeline) -> None:
    place = repository.directory / "my.json"
    place.rename(place.with_suffix(".away"))
    said = repository.run("dvc", "repro", *TARGETS)
    assert said.returncode != 0
    assert "data/own/instructions.path/my.json" in said.stderr
    repository.set("instructions.path", "gone.json")
    said = repository.run("dvc", "repro", *TARGETS)
    assert f"error: instructions.path: {repository.directory / 'gone.json'}: no such file" in (
        said.stdout + said.stderr
    )
    place.with_suffix(".away").rename(place)
    repository.set("instructions.path", "my.json")
    assert repro(repository) in ([], ["own-files"])
    assert "up to date" in status(repository)
