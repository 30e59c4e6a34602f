"""What tests of every room share: a host of images that can be Label Studio, down, or slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ImageHost:
    """A server on loopback that gives what a test puts on it, to those who show the token."""

    url: str = ""
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Status and body by path; everything else is 404."""
    asked: list[str] = field(default_factory=list)
    """Paths in the order they were asked for."""
    down: bool = False


@pytest.fixture
def image_host() -> Iterator[ImageHost]:
    host = ImageHost()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.asked.append(self.path)
            status, body = host.pages.get(self.path, (404, b""))
            if self.headers["Authorization"] != f"Token {TOKEN}":
                status, body = 401, b""
            if host.down:
                status, body = 503, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield host
        server.shutdown()
        thread.join()
