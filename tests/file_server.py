"""A real HTTP server on this machine for the files of a directory; a test may make it misbehave."""

import hashlib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class QuietHandler(SimpleHTTPRequestHandler):
    """GET and HEAD of files, nothing printed."""

    def log_message(self, *_: object) -> None:
        pass


class RangeHandler(QuietHandler):
    """As a good file server: a strong ETag, and the rest of a file that did not change meanwhile.

    Subclass it (`recording` does) for a list of requests of its own; override `body` to misbehave.
    """

    requests: ClassVar[list[tuple[str, str, str | None]]] = []
    """Method, path and ``Range`` of each request."""

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        """Answer with the file, or with what follows the byte that the client asks for."""
        asked = self.headers.get("Range")
        self.requests.append((self.command, self.path, asked))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        etag = self.etag(content)
        start = 0
        if asked and self.headers.get("If-Range", etag) == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.extra_headers()
        self.end_headers()
        if self.command == "GET":
            self.body(content[start:])

    def etag(self, content: bytes) -> str:
        return f'"{hashlib.sha256(content).hexdigest()}"'

    def extra_headers(self) -> None:
        """For subclasses."""

    def body(self, content: bytes) -> None:
        self.wfile.write(content)


class HubHandler(RangeHandler):
    """The Hugging Face hub: ``/{owner}/{name}/resolve/{revision}/{file}``, of files in the
    directory ``{owner}/{name}``; weights lie elsewhere (``/cdn``), and their digest is stated."""

    revision: ClassVar[str] = "0" * 40
    """The only one that there is."""

    def respond(self) -> None:
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/([\w.-]+)", self.path)
        if self.path.startswith("/cdn/"):
            self.path = self.path.removeprefix("/cdn")
            super().respond()
        elif (
            not match
            or match[2] != self.revision
            or not Path(self.translate_path(f"/{match[1]}/{match[3]}")).is_file()
        ):
            self.send_error(404)
        elif not match[3].endswith(".safetensors"):
            self.path = f"/{match[1]}/{match[3]}"
            super().respond()
        else:
            self.requests.append((self.command, self.path, self.headers.get("Range")))
            self.send_response(302)
            path = Path(self.translate_path(f"/{match[1]}/{match[3]}"))
            self.send_header("Location", f"/cdn/{match[1]}/{match[3]}")
            self.send_header("X-Linked-Etag", f'"{self.stated(path)}"')
            self.send_header("X-Linked-Size", str(path.stat().st_size))
            self.send_header("X-Repo-Commit", self.revision)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def stated(self, path: Path) -> str:
        """The digest that the hub states."""
        return hashlib.sha256(path.read_bytes()).hexdigest()


def recording(handler: type[RangeHandler], **attributes: object) -> type[RangeHandler]:
    """A handler with a list of requests of its own, and with ``attributes`` in place of others."""
    return type("Recording", (handler,), {"requests": [], **attributes})


@contextmanager
def serving(
    directory: Path,
    handler: type[SimpleHTTPRequestHandler] = QuietHandler,
    certificate: Path | None = None,
) -> Iterator[str]:
    """The address of a server for ``directory``, as long as the block runs; https if it has a
    ``certificate`` (`certify`)."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(directory))
    ) as server:
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def certify(path: Path) -> None:
    """Write a key and a certificate for 127.0.0.1, signed by itself, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(encoding)
    )
