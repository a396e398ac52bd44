"""Outputs that are whole or absent: temporary name, sha256 manifest written last, rename.

A directory without a valid ``manifest.json`` does not exist, as far as any reader is concerned.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2.errors import UserError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks (about 1.8 GB/s)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` under a temporary name beside ``path``, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: the file is missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the stage that writes it: dvc repro") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


@contextmanager
def new_directory(path: Path, facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Give a temporary directory to fill; then write its manifest and put it in place of ``path``.

    If the body raises, ``path`` stays as it was. ``facts`` are read when the body is done, so it
    may add to them; they stand beside ``files`` in the manifest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        files = {
            str(file.relative_to(temporary).as_posix()): {
                "bytes": file.stat().st_size,
                "sha256": sha256(file),
            }
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        write_json(temporary / MANIFEST, {**(facts or {}), "files": files})
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory, after checking that its files are exactly the ones it names.

    Raises:
        UserError: no manifest, or a file is missing, extra, of another size or of another sha256.
    """
    if not (directory / MANIFEST).is_file():
        raise UserError(
            f"{directory}: no {MANIFEST}, so this directory is missing or half-written. "
            "Run the stage that writes it: dvc repro"
        )
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{directory / MANIFEST}: not a manifest (no table 'files')")
    present = {
        file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()
    } - {MANIFEST}
    problems = [f"{name}: missing" for name in sorted(set(manifest["files"]) - present)]
    problems += [
        f"{name}: not in the manifest" for name in sorted(present - set(manifest["files"]))
    ]
    for name in sorted(present & set(manifest["files"])):
        stated = manifest["files"][name]["sha256"]
        actual = sha256(directory / name)
        if actual != stated:
            problems.append(f"{name}: sha256 is {actual}, the manifest says {stated}")
    if problems:
        raise UserError(
            f"{directory}: damaged.\n  " + "\n  ".join(problems) + "\n"
            "Delete the directory and run: dvc checkout, or dvc repro"
        )
    return manifest


def digest(directory: Path) -> str:
    """One sha256 for a whole directory, from its manifest (not re-read from its files)."""
    files = read_json(directory / MANIFEST)["files"]
    lines = [f"{files[name]['sha256']}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
