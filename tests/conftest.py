"""What tests of every room share: a host of images that can be Label Studio, down, or slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Answering, serving
from workers.images import ImageFetcher
from workers.settings import Settings

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

    class Pages(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.asked.append(self.path)
            status, body = host.pages.get(self.path, (404, b""))
            if self.headers["Authorization"] != f"Token {TOKEN}":
                status, body = 401, b""
            if host.down:
                status, body = 503, b""
            self.say(status, body)

    with serving(Pages) as host.url:
        yield host


@pytest.fixture
def open_fetcher(tmp_path: Path) -> Iterator[Callable[..., ImageFetcher]]:
    """Makes fetchers of images from settings, and closes them after the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> ImageFetcher:
            return stack.enter_context(closing(ImageFetcher(Settings(**({"data": tmp_path} | settings)))))

        yield make
