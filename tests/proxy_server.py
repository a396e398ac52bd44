"""An HTTP proxy on this machine that takes all requests to one server, whatever host they name."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy(ThreadingHTTPServer):
    """What it was asked is in ``requests``, as "POST judge.example /api/chat"."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.refused: tuple[str, ...] = ()
        """Paths for which it answers 503."""
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {url.hostname} {url.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if url.path in self.server.refused:
            self.send_error(503)
            return
        connection = HTTPConnection(urlsplit(self.server.target).netloc)
        connection.request(self.command, url.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxying(target: str) -> Iterator[Proxy]:
    """A proxy in this process, as long as the block runs."""
    with Proxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        yield proxy
        proxy.shutdown()
