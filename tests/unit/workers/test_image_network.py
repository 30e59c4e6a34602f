"""On real sockets of loopback: what is looked up, what is connected to, and when it ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.factories import make_png
from workers.errors import ImageAway, ImageRefused
from workers.image_network import HostPrivate, public_addresses
from workers.images import ImageFetcher

PUBLIC = "93.184.216.34"
PNG = make_png()
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG


class Server:
    """Says its piece to whoever connects, as slowly as it is told."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.heard: list[bytes] = []
        self.speak: Callable[[socket.socket], None] = lambda connection: connection.sendall(GOOD)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65_536))
                with suppress(OSError):
                    self.speak(connection)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.socket.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What each look-up of a name says, one after the other; the last for ever."""
    known: dict[str, list[list[str]]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in known:
            return ask(host, port, *args, **kwargs)
        answers = known[name]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


Fetch = Callable[..., ImageFetcher]


@pytest.fixture
def fetcher(open_fetcher: Fetch) -> Fetch:
    return partial(open_fetcher, label_studio_url="http://label-studio.lan")


def test_a_name_that_means_a_private_address_by_the_time_of_connecting_is_refused(
    server: Server, names: dict[str, list[list[str]]], fetcher: Fetch
) -> None:
    names["rebinding.example"] = [[PUBLIC], ["127.0.0.1"]]
    with pytest.raises(ImageRefused, match=r"private network; an administrator may add rebinding\.example"):
        fetcher().fetch(f"http://rebinding.example:{server.port}/a.png", 7)
    assert server.heard == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    server: Server, names: dict[str, list[list[str]]], fetcher: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    names["rebinding.example"] = [[PUBLIC], [PUBLIC], ["127.0.0.1"]]
    asked: list[str] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        asked.append(address[0])
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ImageAway):
        fetcher().fetch(f"http://rebinding.example:{server.port}/a.png", 7)
    assert asked == [PUBLIC], "an address and no name, which could mean something else by then"


def test_a_name_of_several_addresses_is_private_if_one_of_them_is(names: dict[str, list[list[str]]]) -> None:
    names["mixed.example"] = [[PUBLIC, "10.0.0.5"]]
    with pytest.raises(HostPrivate):
        public_addresses("mixed.example")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_every_spelling_of_a_private_address_is_one(address: str, names: dict[str, list[list[str]]]) -> None:
    if "%" in address:
        names["host.example"] = [[address]]
        address = "host.example"
    with pytest.raises(HostPrivate):
        public_addresses(address)


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "::ffff:93.184.216.34"])
def test_public_addresses_are_given_as_they_are(address: str) -> None:
    assert public_addresses(address)


def test_an_allowed_host_is_asked_by_its_name(
    server: Server, names: dict[str, list[list[str]]], fetcher: Fetch
) -> None:
    names["tiles.lan"] = [["127.0.0.1"]]
    images = fetcher(image_hosts="tiles.lan")
    assert images.fetch(f"http://tiles.lan:{server.port}/a.png", 7).shape == (6, 8, 3)
    assert f"Host: tiles.lan:{server.port}".encode() in server.heard[0]


def test_a_connection_of_a_trusted_storage_serves_no_stranger(
    server: Server, names: dict[str, list[list[str]]], fetcher: Fetch
) -> None:
    names["tiles.lan"] = [["127.0.0.1"]]
    images = fetcher(image_hosts="tiles.lan")
    images.fetch(f"http://tiles.lan:{server.port}/a.png", 7)
    names["stranger.example"] = [[PUBLIC], ["127.0.0.1"]]
    with pytest.raises(ImageRefused, match="private network"):
        images.fetch(f"http://stranger.example:{server.port}/a.png", 7)
    assert len(server.heard) == 1


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_host_that_drips_ends_with_the_deadline_wherever_it_is(server: Server, fetcher: Fetch, part: str) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" if part == "head" else GOOD[:-20])
        for letter in b"X-Slow: " + b"x" * 200 if part == "head" else GOOD[-20:]:
            connection.sendall(bytes([letter]))
            time.sleep(0.1 if part == "head" else 1)

    server.speak = drip
    images = fetcher(image_hosts="127.0.0.1", image_timeout_s=0.5)
    began = time.monotonic()
    with pytest.raises(ImageAway):
        images.fetch(f"http://127.0.0.1:{server.port}/a.png", 7)
    assert time.monotonic() - began < 10, "and not after the 20 s that it drips"


def test_a_host_that_sends_less_than_it_said_is_away(server: Server, fetcher: Fetch) -> None:
    server.speak = lambda connection: connection.sendall(GOOD[:-20])
    with pytest.raises(ImageAway, match="RemoteProtocolError"):
        fetcher(image_hosts="127.0.0.1").fetch(f"http://127.0.0.1:{server.port}/a.png", 7)
