"""Data from a real server on this machine."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.records import Document
from gpt2.data.sources import own_data
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions, load_rows
from tests.file_server import serving

ALPACA = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(50)]
TEXT = "  To be, \n\nor not to be.\n"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory and its address."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder) as address:
        yield folder, address


@pytest.fixture
def folder(place: tuple[Path, str], tmp_path: Path) -> Path:
    """A file that only this test serves."""
    folder = place[0] / tmp_path.name
    folder.mkdir()
    (folder / "play.txt").write_text(TEXT)
    (folder / "play").write_text(TEXT)
    (folder / "play.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (folder / "alpaca data.json").write_text(json.dumps(ALPACA))
    pq.write_table(pa.Table.from_pylist(ALPACA), folder / "alpaca.parquet")
    return folder


@pytest.fixture
def server(place: tuple[Path, str], folder: Path) -> str:
    return f"{place[1]}/{folder.name}"


def documents(cache: Path, url: str, **keys: object) -> list[Document]:
    params = UrlCorpus(source="url", url=url, **keys)
    return list(own_data.documents(load_rows(params, cache), params))


@pytest.mark.parametrize("name", ["play.txt", "play.txt.gz", "play", "play.txt?download=true"])
def test_a_text_from_the_web(server: str, tmp_path: Path, name: str) -> None:
    (document,) = documents(tmp_path / "cache", f"{server}/{name}")
    assert document.name == name.removesuffix(".gz").removesuffix("?download=true")
    assert document.text == TEXT


@pytest.mark.parametrize("name", ["alpaca%20data.json", "alpaca.parquet"])
def test_instructions_from_the_web(server: str, tmp_path: Path, name: str) -> None:
    params = UrlInstructions(source="url", url=f"{server}/{name}")
    found = own_data.instruction_records(load_rows(params, tmp_path / "cache"), params).records
    assert [record.output for record in found] == [row["output"] for row in ALPACA]
    assert found[4].name == f"{name.replace('%20', ' ')}:5"


def test_the_facts_trace_the_file(server: str, tmp_path: Path) -> None:
    params = UrlCorpus(source="url", url=f"{server}/play.txt", lines="strip")
    data = load_rows(params, tmp_path / "cache")
    (document,) = own_data.documents(data, params)
    assert document.text == "To be,\nor not to be."
    raw = {"bytes": len(TEXT), "sha256": DIGEST}
    assert data.facts == {"raw": {f"{server}/play.txt": raw}, "skipped": 0}


def test_a_known_file_is_fetched_once(server: str, folder: Path, tmp_path: Path) -> None:
    url, cache = f"{server}/play.txt", tmp_path / "cache"
    assert documents(cache, url, sha256=DIGEST)[0].text == TEXT
    (folder / "play.txt").unlink()
    assert documents(cache, url, sha256=DIGEST)[0].text == TEXT
    (cache / DIGEST).write_text("damaged")
    with pytest.raises(UserError, match="404"):
        documents(cache, url, sha256=DIGEST)


def test_a_file_without_a_digest_is_fetched_anew(server: str, folder: Path, tmp_path: Path) -> None:
    url, cache = f"{server}/play.txt", tmp_path / "cache"
    documents(cache, url)
    (folder / "play.txt").write_text("Another one")
    assert documents(cache, url)[0].text == "Another one"


def test_a_mirror_helps_out(server: str, tmp_path: Path) -> None:
    url, mirror = f"{server}/gone.txt", f"{server}/play.txt"
    assert documents(tmp_path / "cache", url, mirrors=[mirror])[0].text == TEXT


def test_a_file_of_another_digest_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"sha256 is {DIGEST}, expected 0000") as caught:
        documents(tmp_path / "cache", f"{server}/play.txt", sha256="0" * 64)
    assert str(caught.value).startswith(f"{server}/play.txt: ")
    assert not (tmp_path / "cache" / ("0" * 64)).exists()


def test_what_the_server_says_is_reported(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404") as caught:
        documents(tmp_path / "cache", f"{server}/gone.txt")
    assert str(caught.value).startswith(f"{server}/gone.txt: ")


def test_bad_records_are_listed_with_the_address(server: str, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.jsonl").write_text('{"text": "ok"}\n{"txt": "?"}\n')
    with pytest.raises(UserError) as caught:
        documents(tmp_path / "cache", f"{server}/bad.jsonl")
    assert str(caught.value).splitlines() == [
        f"{server}/bad.jsonl: 1 problem(s)",
        "  line 2: 'text': Field required",
        "  The fields there are: txt",
    ]


def test_addresses_are_those_of_the_web() -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/a.txt", "a.txt"):
        with pytest.raises(UserError, match=r"corpus\.url"):
            parse(UrlCorpus, {"source": "url", "url": url}, "corpus")
