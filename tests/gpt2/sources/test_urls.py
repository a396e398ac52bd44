"""Downloads from a real server on this machine, also from one that fails half-way."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gpt2.errors import UserError
from gpt2.sources.urls import download

CONTENT = b"GPT-2 " * 500_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path == "/cut" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_arrives_whole(server: str, tmp_path: Path) -> None:
    download(f"{server}/file", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("gone", SHA256, "could not be downloaded .*404"),
        ("cut", SHA256, "could not be downloaded"),
        ("file", "0" * 64, "sha256 is .*, expected 0000"),
    ],
)
def test_nothing_is_left_of_a_bad_one(
    server: str, tmp_path: Path, path: str, sha256: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        download(f"{server}/{path}", sha256, tmp_path / "file")
    assert str(caught.value).startswith(f"{server}/{path}: ")
    assert not (tmp_path / "file").exists()


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Check the network"):
        download("http://127.0.0.1:9/file", SHA256, tmp_path / "file")
