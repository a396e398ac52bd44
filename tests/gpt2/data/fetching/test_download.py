"""Downloads from a real server on this machine, also from servers that fail in every way."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest

from gpt2.core.errors import UserError
from gpt2.data.fetching.download import download
from gpt2.data.fetching.http_client import RetryPolicy, headers, redacted
from tests.file_server import QuietHandler, RangeHandler, certify, recording, serving
from tests.gpt2.evaluation.judge.servers import free_port
from tests.proxy_server import proxying

CONTENT = bytes(range(251)) * 12_000
"""3,012,000 bytes, no two neighbouring blocks of which are alike."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(retries=2, first_delay=0.01, max_delay=2.0, timeout=0.3)
CUT = 2_000_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(CONTENT)
    return tmp_path


def fetch(place: Path, *urls: str, sha256: str | None = SHA256, **options) -> str:
    options = {"policy": QUICK, **options}
    return download(urls, place / "file", sha256=sha256, cache=place / "cache", **options)


def refused(place: Path, *urls: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(place, *urls, **options)
    assert sorted(path.name for path in place.iterdir()) == ["cache", "served"]
    return str(caught.value)


def waiting(place: Path) -> list[Path]:
    return list((place / "cache").glob("*.part"))


class CutHandler(RangeHandler):
    """Breaks the connection after two thirds of the file."""

    def body(self, content: bytes) -> None:
        self.wfile.write(content[: CUT - len(CONTENT) + len(content)])


class CutOnceHandler(RangeHandler):
    """Breaks the first connection only."""

    def body(self, content: bytes) -> None:
        self.wfile.write(content[: CUT if len(self.requests) == 1 else None])


def test_a_file_arrives_whole(place: Path) -> None:
    handler = recording(RangeHandler)
    with serving(place / "served", handler) as server:
        assert fetch(place, f"{server}/file") == SHA256
        assert handler.requests == [("GET", "/file", None)]
        assert fetch(place, f"{server}/file", sha256=None) == SHA256
    assert (place / "file").read_bytes() == CONTENT
    assert waiting(place) == []


def test_a_broken_download_resumes_where_it_stopped(place: Path) -> None:
    handler = recording(CutOnceHandler)
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/file")
    assert (place / "file").read_bytes() == CONTENT
    [(_, _, first), (_, _, second)] = handler.requests
    assert first is None
    assert CUT - 2**16 < int(second.removeprefix("bytes=").removesuffix("-")) <= CUT


def test_a_broken_download_resumes_at_the_next_call(place: Path) -> None:
    with serving(place / "served", CutHandler) as server:
        port = server.rpartition(":")[2]
        message = refused(place, f"{server}/file", policy=RetryPolicy(retries=0))
    assert message.startswith(f"http://127.0.0.1:{port}/file: could not be downloaded (")
    [part] = waiting(place)
    assert part.read_bytes() == CONTENT[: part.stat().st_size]

    # The name of the part comes from the address; the next server has another port.
    handler = recording(RangeHandler)
    with serving(place / "served", handler) as server:
        renamed = hashlib.sha256(f"{server}/file".encode()).hexdigest()[:16] + "-file"
        for old in (part, part.with_suffix(".json")):
            old.rename(old.with_name(renamed + old.suffix))
        fetch(place, f"{server}/file")
        size = int(handler.requests[0][2].removeprefix("bytes=").removesuffix("-"))
    assert size > CUT - 2**16
    assert (place / "file").read_bytes() == CONTENT


def test_a_download_resumes_after_a_killed_process(place: Path) -> None:
    class SlowHandler(RangeHandler):
        slow = True

        def body(self, content: bytes) -> None:
            for start in range(0, len(content), 2**17):
                self.wfile.write(content[start : start + 2**17])
                time.sleep(0.1 if type(self).slow else 0)

    handler = recording(SlowHandler)
    with serving(place / "served", handler) as server:
        code = (
            "from pathlib import Path; from gpt2.data.fetching.download import download; "
            f"download(['{server}/file'], Path('file'), sha256='{SHA256}', cache=Path('cache'))"
        )
        source = str(Path(__file__).parents[4] / "src")
        environment = os.environ | {"PYTHONPATH": source}
        process = subprocess.Popen([sys.executable, "-c", code], cwd=place, env=environment)
        while not (parts := waiting(place)) or parts[0].stat().st_size < 2**18:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        size = parts[0].stat().st_size
        assert not (place / "file").exists()
        handler.slow = False
        fetch(place, f"{server}/file")
    assert handler.requests[1:] == [("GET", "/file", f"bytes={size}-")]
    assert (place / "file").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_afresh(place: Path) -> None:
    new = CONTENT[::-1]

    class ChangingHandler(CutOnceHandler):
        def body(self, content: bytes) -> None:
            super().body(content)
            (place / "served" / "file").write_bytes(new)

    handler = recording(ChangingHandler)
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/file", sha256=None)
    assert len(handler.requests) == 2
    assert handler.requests[1][2] is not None
    assert (place / "file").read_bytes() == new


def test_a_server_that_cannot_resume_starts_afresh(place: Path) -> None:
    class WholeHandler(CutOnceHandler):
        def respond(self) -> None:
            del self.headers["Range"]
            super().respond()

    with serving(place / "served", recording(WholeHandler)) as server:
        fetch(place, f"{server}/file")
    assert (place / "file").read_bytes() == CONTENT


def test_without_a_version_nothing_is_resumed(place: Path) -> None:
    handler = recording(CutOnceHandler, etag=lambda self, content: 'W/"weak"')
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/file")
    assert [asked for _, _, asked in handler.requests] == [None, None]
    assert (place / "file").read_bytes() == CONTENT


def test_the_date_is_a_version_too(place: Path) -> None:
    date = formatdate(usegmt=True)
    handler = recording(
        CutOnceHandler,
        etag=lambda self, content: date,
        extra_headers=lambda self: self.send_header("Last-Modified", date),
    )
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/file")
    assert handler.requests[1][2] is not None
    assert (place / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", ["bytes 5-9/10", "", f"bytes 0-{len(CONTENT) - 1}/*"])
def test_a_continuation_from_another_place_is_not_taken(place: Path, wrong: str) -> None:
    class ConfusedHandler(CutOnceHandler):
        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, wrong if keyword == "Content-Range" else value)

    handler = recording(ConfusedHandler)
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/file")
    assert handler.requests[2][2] is None
    assert (place / "file").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(place: Path) -> None:
    handler = recording(CutOnceHandler)
    with serving(place / "served", handler) as server:
        with pytest.raises(UserError):
            fetch(place, f"{server}/file", policy=RetryPolicy(retries=0))
        with waiting(place)[0].open("ab") as file:
            file.write(CONTENT)
        fetch(place, f"{server}/file")
    assert (place / "file").read_bytes() == CONTENT


def test_a_wrong_file_names_both_digests_and_leaves_nothing(place: Path) -> None:
    with serving(place / "served", RangeHandler) as server:
        message = refused(place, f"{server}/file", sha256="0" * 64)
    assert f"sha256 is {SHA256}, expected {'0' * 64}" in message
    assert waiting(place) == []


def test_a_damaged_part_is_not_taken_for_the_file(place: Path) -> None:
    handler = recording(CutOnceHandler)
    with serving(place / "served", handler) as server:
        with pytest.raises(UserError):
            fetch(place, f"{server}/file", policy=RetryPolicy(retries=0))
        with waiting(place)[0].open("r+b") as file:
            file.write(b"damage")
        assert "expected" in refused(place, f"{server}/file")
        fetch(place, f"{server}/file")
    assert (place / "file").read_bytes() == CONTENT


def test_the_next_mirror_is_asked_at_once_when_a_file_is_missing_or_another(place: Path) -> None:
    (place / "served" / "other").write_bytes(CONTENT[:-1] + b"?")
    handler = recording(RangeHandler)
    with serving(place / "served", handler) as server:
        fetch(place, f"{server}/gone", f"{server}/other", f"{server}/file")
    assert [path for _, path, _ in handler.requests] == ["/gone", "/other", "/file"]
    assert (place / "file").read_bytes() == CONTENT


def test_every_place_that_failed_is_named(place: Path) -> None:
    with serving(place / "served", RangeHandler) as server:
        message = refused(place, f"{server}/gone", "http://127.0.0.1:9/file")
    assert f"{server}/gone: could not be downloaded: it answers 404 Not Found\n" in message
    assert "http://127.0.0.1:9/file: could not be downloaded ([Errno 111]" in message
    assert message.endswith("Check the network")


@pytest.mark.parametrize(("status", "seconds"), [(429, True), (503, False)])
def test_a_busy_server_gets_the_time_that_it_asks_for(
    place: Path, status: int, seconds: bool
) -> None:
    class BusyHandler(RangeHandler):
        def respond(self) -> None:
            if not self.requests:
                self.requests.append(("GET", "busy", None))
                self.send_response(status)
                wait = "1" if seconds else formatdate(time.time() + 2, usegmt=True)
                self.send_header("Retry-After", wait)
                self.end_headers()
            else:
                super().respond()

    began = time.monotonic()
    with serving(place / "served", recording(BusyHandler)) as server:
        fetch(place, f"{server}/file")
    assert time.monotonic() - began >= 1 - 0.1  # of a date, whole seconds are left
    assert (place / "file").read_bytes() == CONTENT


def failing(status: int, **fields: str) -> type[RangeHandler]:
    def respond(self: RangeHandler) -> None:
        self.requests.append((self.command, self.path, None))
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    return recording(RangeHandler, respond=respond)


@pytest.mark.parametrize(
    ("handler", "tries", "message"),
    [
        (failing(500), 3, "answers 500"),
        (failing(503, Retry_After="86400"), 1, "answers 503 .* asks to wait 86400 s"),
        (failing(401), 1, "answers 401"),
        (failing(403), 1, "answers 403"),
        (failing(206, Content_Length="0"), 3, "another part or version"),
        (failing(200, Content_Encoding="gzip", Content_Length="0"), 1, "compressed only"),
        (failing(302, Location="ftp://127.0.0.1/file"), 1, "leads to ftp://127.0.0.1/file, but"),
        (failing(302, Location="file:///etc/passwd"), 1, "leads to file:///etc/passwd, but"),
        (failing(302, Location="/again"), 10, "more than 10 redirects"),
        (failing(302, Location="http://[::1/file"), 1, "leads to an invalid address"),
        (failing(200, Content_Length="9" * 5000), 1, "does not state its length|another version"),
        (failing(206, Content_Range=f"bytes {'9' * 5000}-1/2"), 3, "another part or version"),
        (failing(503, Retry_After="9" * 5000), 1, "asks to wait inf s"),
        (failing(503, Retry_After="soon"), 3, "answers 503"),
        (failing(200, Content_Length=str(2**70)), 1, "bytes, over 17,179,869,184"),
    ],
)
def test_tries_are_few_and_the_reason_is_reported(
    place: Path, handler: type[RangeHandler], tries: int, message: str
) -> None:
    with serving(place / "served", handler) as server, pytest.raises(UserError, match=message):
        fetch(place, f"{server}/file")
    assert len(handler.requests) == tries
    assert not (place / "file").exists()
    assert waiting(place) == []


def test_what_began_encrypted_stays_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = place.with_name("certificate.pem")
    certify(certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    served = place / "served"
    with serving(served, RangeHandler) as plain, serving(served, RangeHandler, certificate) as safe:
        with serving(served, failing(302, Location=f"{plain}/file"), certificate) as leading:
            assert f"leads to {plain}/file, but only https" in refused(place, f"{leading}/file")
        with serving(served, failing(302, Location=f"{safe}/file")) as leading:
            fetch(place, f"{leading}/file")
    assert (place / "file").read_bytes() == CONTENT


def test_a_silent_server_is_left_after_a_while(place: Path) -> None:
    class SilentHandler(RangeHandler):
        def body(self, content: bytes) -> None:
            self.wfile.write(content[:1000])
            self.wfile.flush()
            time.sleep(1)

    with serving(place / "served", SilentHandler) as server:
        message = refused(place, f"{server}/file", policy=RetryPolicy(retries=0, timeout=0.2))
    assert "could not be downloaded (no data for 0.2 s)" in message


def test_more_than_one_asked_for_is_not_taken(place: Path) -> None:
    def respond(self: RangeHandler) -> None:  # without a length: the end of the connection ends it
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    with serving(place / "served", recording(RangeHandler, respond=respond)) as server:
        assert "more than 3,000,000 bytes" in refused(place, f"{server}/file", max_bytes=3_000_000)
        assert "Give its sha256" in refused(place, f"{server}/file", sha256=None)
        fetch(place, f"{server}/file")
    with serving(place / "served", RangeHandler) as server:
        message = refused_again(place, f"{server}/file", max_bytes=3_000_000)
    assert "has 3,012,000 bytes, over 3,000,000" in message


def refused_again(place: Path, *urls: str, **options) -> str:
    (place / "file").unlink()
    return refused(place, *urls, **options)


def test_a_full_disk_is_reported_before_the_download(place: Path) -> None:
    handler = failing(200, Content_Length=str(10**17))
    with serving(place / "served", handler) as server:
        message = refused(place, f"{server}/file", max_bytes=10**18)
    assert "needs 100,000,000,000,000,000 bytes" in message
    assert "Make room" in message


@pytest.mark.parametrize(
    "notes", ["", "{", "[]", "{}", '{"length": 9}', '{"url": 1, "length": "9", "validator": 3}']
)
def test_damaged_notes_are_no_notes(place: Path, notes: str) -> None:
    with serving(place / "served", recording(CutOnceHandler)) as server:
        with pytest.raises(UserError):
            fetch(place, f"{server}/file", policy=RetryPolicy(retries=0))
        waiting(place)[0].with_suffix(".json").write_text(notes)
        fetch(place, f"{server}/file")
    assert (place / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["..%2f..%2f..%2fevil", "..", "%00", "a/../../evil", "x" * 300])
def test_no_address_leads_out_of_the_cache(place: Path, name: str) -> None:
    (place / "inner").mkdir()

    def respond(self: RangeHandler) -> None:
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"12345678")

    with (
        serving(place, recording(RangeHandler, respond=respond)) as server,
        pytest.raises(UserError, match="Check the network"),
    ):
        download(
            [f"{server}/{name}"],
            place / "inner" / "file",
            sha256=None,
            cache=place / "inner" / "cache",
            policy=RetryPolicy(retries=0),
        )
    assert sorted(path.name for path in place.iterdir()) == ["inner", "served"]
    left = sorted(path.suffix for path in (place / "inner").rglob("*") if path.is_file())
    assert left == [".json", ".lock", ".part"]


def test_a_secret_in_the_address_is_not_shown(place: Path) -> None:
    secret = "hunter2"
    with serving(place / "served", QuietHandler) as server:
        host = server.removeprefix("http://")
        with pytest.raises(UserError) as caught:
            fetch(place, f"http://me:{secret}@{host}/gone?token={secret}")
    assert secret not in str(caught.value)
    assert f"http://***@{host}/gone?***: " in str(caught.value)
    with pytest.raises(UserError) as caught:
        fetch(place, f"http://me:{secret}@127.0.0.1:9/file?token={secret}")
    assert secret not in str(caught.value)
    assert redacted("https://example.org/a/b") == "https://example.org/a/b"


def test_two_at_once_do_not_write_into_each_other(place: Path) -> None:
    with serving(place / "served", RangeHandler) as server, ThreadPoolExecutor() as pool:
        tasks = [
            pool.submit(
                download, [f"{server}/file"], place / name, sha256=SHA256, cache=place / "cache"
            )
            for name in ("one", "two", "three")
        ]
        assert {task.result() for task in tasks} == {SHA256}
    assert {(place / name).read_bytes() for name in ("one", "two", "three")} == {CONTENT}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_the_cache_may_lie_on_another_file_system(place: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as cache,
        serving(place / "served", RangeHandler) as server,
    ):
        download([f"{server}/file"], place / "file", sha256=SHA256, cache=Path(cache))
        assert not list(Path(cache).glob("*.part"))
    assert (place / "file").read_bytes() == CONTENT
    assert len(list(place.iterdir())) == 2


def test_what_is_no_web_address_is_refused(place: Path) -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/file", "/etc/passwd"):
        assert "only http and https" in refused(place, url)
    assert "not a valid address" in refused(place, "http:///file")
    assert "not a valid address" in refused(place, "http://me:hunter2@[::1/file")
    assert "hunter2" not in refused(place, "http://me:hunter2@[::1/file")


def test_headers_come_from_the_first_answer_that_has_them(place: Path) -> None:
    def respond(self: RangeHandler) -> None:
        if self.path == "/from":
            self.send_response(302)
            self.send_header("Location", "/to")
        else:
            self.send_response(200)
            self.send_header("X-Wanted", "yes")
        self.end_headers()

    with serving(place, recording(RangeHandler, respond=respond)) as server:
        assert headers(f"{server}/from", "X-Wanted", QUICK)["X-Wanted"] == "yes"
        assert headers(f"{server}/from", "Location", QUICK)["Location"] == "/to"
        with pytest.raises(UserError, match="no header X-Other"):
            headers(f"{server}/from", "X-Other", QUICK)
    with serving(place) as server, pytest.raises(UserError, match="answers 404"):
        headers(f"{server}/gone", "X-Wanted", QUICK)


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    "proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:1080", "ftp://x", "http://"]
)
def test_a_server_on_this_machine_needs_no_proxy(place, monkeypatch, no_proxies, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with serving(place / "served", RangeHandler) as address:
        assert fetch(place, f"{address}/file") == SHA256


def test_a_proxy_is_asked_for_a_server_elsewhere(place, monkeypatch, no_proxies):
    with serving(place / "served", RangeHandler) as address, proxying(address) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        assert fetch(place, "http://files.example/file") == SHA256
        assert proxy.requests == ["GET files.example /file"]
        monkeypatch.setenv("NO_PROXY", "files.example")
        with pytest.raises(UserError, match="could not be downloaded"):
            fetch(place, "http://files.example/file")
        assert len(proxy.requests) == 1


def test_a_proxy_that_cannot_be_used_is_named_at_once(place, monkeypatch, no_proxies):
    for proxy, message in {
        "socks5://me:secret@127.0.0.1:1080": "SOCKS needs .*pip install PySocks",
        "gopher://127.0.0.1:1080": "not an address of an HTTP or SOCKS proxy",
        "http://127.0.0.1:port": "not an address of an HTTP or SOCKS proxy",
    }.items():
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(UserError, match=message) as caught:
            fetch(place, "http://files.example/file", policy=RetryPolicy(timeout=0.3))
        assert "secret" not in str(caught.value)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert "could not be downloaded" in refused(place, "http://files.example/file")
