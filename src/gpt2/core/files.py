"""Atomic outputs with checksums: a temporary name, a sha256 manifest written last, a rename.

Readers treat a directory without a valid ``manifest.json`` as missing.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gpt2.core.errors import UserError

MANIFEST = "manifest.json"
NO_PERMISSION = "Change the permissions, or use another directory"
REMEDIES = {
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room: your disk quota is used up",
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "Use a directory on a writable file system",
    errno.EACCES: NO_PERMISSION,
    errno.EPERM: NO_PERMISSION,
    errno.EIO: "The disk has errors: use another one",
}
"""Advice for each error of the operating system in writing."""


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file (about 1.8 GB/s)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system, while the body writes to ``path``, into a `UserError`.

    Raises:
        UserError: the disk is full, permission is denied, or another error in `REMEDIES`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number not in REMEDIES:
            raise
        place = getattr(error, "filename", None) or path
        raise UserError(f"{place}: {os.strerror(number)}. {REMEDIES[number]}") from error


def _errno(error: OSError | SafetensorError) -> int:
    """The errno of an error, 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def write_text(path: Path, text: str) -> None:
    """Write ``text`` under a temporary name beside ``path``, then rename it into place.

    Raises:
        UserError: writing fails (see `writing`); ``path`` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity raise a ValueError."""
    write_text(path, _json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, not UTF-8 or not JSON.
    """
    try:
        return _parse_json(path, path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the stage that writes it: dvc repro") from None


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _parse_json(path: Path, content: bytes) -> Any:
    try:  # a number with thousands of digits is a ValueError, too
        return json.loads(content.decode())
    except (
        ValueError,
        RecursionError,
    ) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def write_sealed(path: Path, text: str) -> None:
    """Write ``text``, and its sha256 to ``<name>.sha256`` for ``sha256sum --check``."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, text)
    write_text(_digest_file(path), f"{digest}  {path.name}\n")


def read_seal(path: Path) -> str:
    """Verify a file that `write_sealed` wrote and return its sha256.

    Raises:
        UserError: the file or its digest is missing, or they do not match.
    """
    for needed in (path, _digest_file(path)):
        if not needed.is_file():
            raise UserError(f"{needed}: no such file. Run the stage that writes it: dvc repro")
    stated = _digest_file(path).read_bytes()
    actual = sha256(path)
    if stated != f"{actual}  {path.name}\n".encode():
        raise UserError(
            f"{path}: damaged. Its sha256 is {actual}, {_digest_file(path).name} says "
            f"{_printable(stated)}\nDelete both and run: dvc checkout, or dvc repro"
        )
    return actual


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _printable(digest: bytes) -> str:
    return ascii(digest[:64].decode("latin-1"))[1:-1]


@contextmanager
def new_directory(path: Path, facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Yield a temporary directory; after the body, write its manifest and rename it to ``path``.

    If the body raises, ``path`` keeps its old content. ``facts`` are stored beside ``files`` in the
    manifest; the body may still add to them. Only one process may write at a time: leftovers of a
    killed writer are deleted.

    Raises:
        UserError: writing fails (see `writing`).
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_up(path, temporary, old)
        try:
            temporary.mkdir()
            yield temporary
            files = {
                str(file.relative_to(temporary).as_posix()): {
                    "bytes": file.stat().st_size,
                    "sha256": sha256(file),
                }
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            _write_manifest(temporary / MANIFEST, {**(facts or {}), "files": files})
            if path.exists():
                path.rename(old)
            temporary.rename(path)
        finally:
            _clean_up(path, temporary, old)


def _clean_up(path: Path, temporary: Path, old: Path) -> None:
    """Restore the old output unless a new one has replaced it; delete temporary directories."""
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (old, temporary):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    content = _json(manifest).removesuffix("\n}\n")
    write_text(path, content + _seal(hashlib.sha256(content.encode()).hexdigest()))


def _seal(digest: str) -> str:
    """The last entry of a manifest; ``digest`` is the sha256 of the text before it."""
    return f',\n  "seal": "{digest}"\n}}\n'


def read_manifest(directory: Path) -> dict[str, Any]:
    """Verify a directory against its manifest and return the manifest.

    Raises:
        UserError: there is no manifest, the manifest or a file is damaged, or a file is missing or
            not listed.
    """
    if not (directory / MANIFEST).is_file():
        raise UserError(
            f"{directory}: no {MANIFEST}, so this directory is missing or half-written. "
            "Run the stage that writes it: dvc repro"
        )
    manifest = _verified_manifest(directory / MANIFEST)
    present = {
        file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()
    } - {MANIFEST}
    problems = [f"{name}: missing" for name in sorted(set(manifest["files"]) - present)]
    problems += [
        f"{name}: not in the manifest" for name in sorted(present - set(manifest["files"]))
    ]
    for name in sorted(present & set(manifest["files"])):
        stated = manifest["files"][name].get("sha256")
        actual = sha256(directory / name)
        if actual != stated:
            problems.append(f"{name}: sha256 is {actual}, the manifest says {stated}")
    if problems:
        raise UserError(
            f"{directory}: damaged.\n  " + "\n  ".join(problems) + "\n"
            "Delete the directory and run: dvc checkout, or dvc repro"
        )
    return manifest


def _verified_manifest(path: Path) -> dict[str, Any]:
    """Check the seal of a manifest, which protects its facts; return the rest of it."""
    whole, length = path.read_bytes(), len(_seal(64 * "0"))
    content, seal = whole[:-length], whole[-length:]
    actual = hashlib.sha256(content).hexdigest()
    if seal != _seal(actual).encode():
        raise UserError(
            f"{path}: damaged, or written by an older version. The sha256 of the text before its "
            f"seal is {actual}, the seal says {_printable(seal[-68:-4])}\n"
            "Delete the directory and run: dvc checkout, or dvc repro"
        )
    manifest: dict[str, Any] = _parse_json(path, content + b"}")
    table = manifest.get("files")
    if not isinstance(table, dict) or not all(isinstance(file, dict) for file in table.values()):
        raise UserError(f"{path}: not a manifest (no table 'files')")
    return manifest


def digest(directory: Path) -> str:
    """One sha256 for a whole directory, computed from its manifest without reading its files."""
    files = read_json(directory / MANIFEST)["files"]
    lines = [f"{files[name]['sha256']}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
