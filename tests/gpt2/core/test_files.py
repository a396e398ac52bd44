import hashlib
import json
import os
import resource
import subprocess
import sys

import pytest

from gpt2.core import files
from gpt2.core.errors import UserError


def make(directory, **contents):
    with files.new_directory(directory, {"source": "test"}) as new:
        for name, text in contents.items():
            (new / name).write_text(text)
    return directory


def test_a_directory_ends_with_a_manifest_of_its_files(tmp_path):
    directory = make(tmp_path / "out", a="one", b="two")
    manifest = files.read_manifest(directory)
    assert manifest["source"] == "test"
    assert manifest["files"]["a"] == {"bytes": 3, "sha256": files.sha256(directory / "a")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_failure_keeps_the_previous_output(tmp_path):
    directory = make(tmp_path / "out", a="one")
    with pytest.raises(RuntimeError), files.new_directory(directory) as new:
        (new / "a").write_text("half")
        raise RuntimeError
    assert (directory / "a").read_text() == "one"
    files.read_manifest(directory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_new_output_replaces_the_old_one(tmp_path):
    make(tmp_path / "out", a="one", b="two")
    directory = make(tmp_path / "out", a="three")
    assert sorted(files.read_manifest(directory)["files"]) == ["a"]


def test_damage_is_named_with_both_digests(tmp_path):
    directory = make(tmp_path / "out", changed="one", missing="two")
    stated = files.sha256(directory / "changed")
    (directory / "changed").write_text("ONE")
    (directory / "missing").unlink()
    (directory / "extra").write_text("three")
    with pytest.raises(UserError) as caught:
        files.read_manifest(directory)
    message = str(caught.value)
    assert "missing: missing" in message
    assert "extra: not in the manifest" in message
    actual = files.sha256(directory / "changed")
    assert f"changed: sha256 is {actual}, the manifest says {stated}" in message


@pytest.mark.parametrize("content", [None, "[]", "{}", "{", "\udcff"])
def test_without_a_valid_manifest_a_directory_does_not_exist(tmp_path, content):
    directory = tmp_path / "out"
    directory.mkdir()
    if content is not None:
        (directory / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=str(directory)):
        files.read_manifest(directory)


def test_a_changed_fact_is_named_with_both_digests(tmp_path):
    directory = make(tmp_path / "out", a="one")
    manifest = directory / "manifest.json"
    whole = manifest.read_text()
    sealed = whole[: whole.index(',\n  "seal"')]
    stated = json.loads(whole)["seal"]
    assert stated == hashlib.sha256(sealed.encode()).hexdigest()
    changed = sealed.replace("test", "best")
    manifest.write_text(whole.replace("test", "best"))
    with pytest.raises(UserError) as caught:
        files.read_manifest(directory)
    actual = hashlib.sha256(changed.encode()).hexdigest()
    assert f"is {actual}, the seal says {stated}" in str(caught.value)


def test_leftovers_of_killed_writers_are_deleted_and_the_old_output_is_restored(tmp_path):
    make(tmp_path / "out", a="one").rename(tmp_path / ".out.old")
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "b").write_text("half")
    with pytest.raises(RuntimeError), files.new_directory(tmp_path / "out") as new:
        assert not list(new.iterdir())
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(files.read_manifest(tmp_path / "out")["files"]) == ["a"]
    make(tmp_path / "out", c="three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_sealed_file_is_checked_against_the_digest_beside_it(tmp_path):
    path = tmp_path / "records.jsonl"
    files.write_sealed(path, "é\n")
    stated = files.read_seal(path)
    assert stated == files.sha256(path)
    checked = subprocess.run(["sha256sum", "--check", "--status", f"{path}.sha256"], cwd=tmp_path)
    assert checked.returncode == 0
    path.write_text("e\n")
    with pytest.raises(UserError) as caught:
        files.read_seal(path)
    assert f"{path}: damaged. Its sha256 is {files.sha256(path)}, " in str(caught.value)
    assert f"records.jsonl.sha256 says {stated}" in str(caught.value)
    for missing in (path.with_name("records.jsonl.sha256"), path):
        missing.unlink()
        with pytest.raises(UserError, match=f"{missing}: no such file"):
            files.read_seal(path)


@pytest.mark.parametrize("number", files.REMEDIES)
def test_errors_of_the_operating_system_become_a_message_with_the_path(tmp_path, number):
    message = rf"{tmp_path}: {os.strerror(number)}\. "
    with pytest.raises(UserError, match=message), files.writing(tmp_path):
        raise OSError(number, "")


def test_other_errors_of_the_operating_system_are_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), files.writing(tmp_path):
        (tmp_path / "none").read_text()


def test_the_digest_of_a_directory_is_that_of_its_files(tmp_path):
    one = files.digest(make(tmp_path / "one", a="x", b="y"))
    assert one == files.digest(make(tmp_path / "two", b="y", a="x"))
    assert one != files.digest(make(tmp_path / "three", a="x", b="z"))


def test_json_is_complete_or_rejected(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    files.write_json(path, {"loss": 1.5, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 1.5, "name": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert files.read_json(path)["loss"] == 1.5
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_a_file_size_limit_leaves_the_old_file(tmp_path):
    path = tmp_path / "text.txt"
    files.write_text(path, "old")
    program = (
        "import sys; from pathlib import Path; from gpt2.core import files\n"
        "files.write_text(Path(sys.argv[1]), 'x' * 100_000)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": "src"},
        preexec_fn=limit,
        capture_output=True,
    )
    assert result.returncode != 0
    assert f"{path}: File too large. Raise the limit" in result.stderr.decode()
    assert path.read_text() == "old"
