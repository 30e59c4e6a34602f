"""The network as images may use it: the address that was checked is the one connected to, and time has an end."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

QUIET_S = 10.0
"""Longest silence of a host before it counts as away, in seconds."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_deadline: ContextVar[float] = ContextVar("deadline")


class HostUnknown(Exception):
    """Nobody knows the host's address."""


class HostPrivate(Exception):
    """The host is on a private network."""


def open_client(timeout_s: float, *, public_only: bool, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """Make a client that keeps no cookies and ends with the deadline.

    Args:
        timeout_s: Longest silence, in seconds.
        public_only: Whether it connects to public addresses alone; else a host's name is taken as it is.
        transport: In place of the network.

    Returns:
        The client; proxies that the environment names are used, and then it is they who look up names.
    """
    client = httpx.Client(timeout=timeout_s, transport=transport)
    # A cookie knows no port, and a host that gives one shall not see it again.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    if transport is None:
        # httpx has no door to the network below its connections, though httpcore has.
        below: Any = client._transport
        below._pool._network_backend = _Network(public_addresses if public_only else lambda host: [host])
    return client


@contextmanager
def deadline(seconds: float) -> Iterator[float]:
    """Let whatever is sent and received within end in time.

    Args:
        seconds: How long it may take in all.

    Yields:
        The moment of `time.monotonic` at which it is over.
    """
    end = time.monotonic() + seconds
    token = _deadline.set(end)
    try:
        yield end
    finally:
        _deadline.reset(token)


def public_addresses(host: str) -> list[str]:
    """Look up a host that must not be on a private network.

    Args:
        host: Its name or its address.

    Returns:
        Its addresses.

    Raises:
        HostUnknown: If it has none.
        HostPrivate: If any of them is not everybody's.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as exc:
        raise HostUnknown(host) from exc
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not all(_is_public(address.partition("%")[0]) for address in addresses):
        raise HostPrivate(host)
    return addresses


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        # An address that carries one of the older kind leads to that one.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _left(timeout: float | None, late: type[Exception]) -> float | None:
    end = _deadline.get(None)
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise late("the time is over")
    return left if timeout is None else min(timeout, left)


class _Network(httpcore.NetworkBackend):
    # Connects to what `addresses` says that a host is, so that no second look-up can say something else.

    def __init__(self, addresses: Callable[[str], list[str]]) -> None:
        self._addresses = addresses
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._addresses(host):
            try:
                left = _left(timeout, httpcore.ConnectTimeout)
                return _Stream(self._sockets.connect_tcp(address, port, left, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure


class _Stream(httpcore.NetworkStream):
    # A connection of which every step ends with the deadline: a host that drips is within its timeout for ever.

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
