"""Ports on loopback for servers that are told where to listen, and may be started there again."""

from __future__ import annotations

import secrets
import socket

PORTS = range(20_000, 32_768)
"""Below those that outgoing connections get (from 32768 on in Linux, from 49152 elsewhere): one of them may sit on
the port of a server before its first start, or before it is started again."""


def free_port() -> int:
    """Find a port that nothing uses now, and that no outgoing connection will get.

    Returns:
        The port, on loopback.

    Raises:
        OSError: If a hundred ports are taken, one after the other.
    """
    for _ in range(100):
        port = secrets.choice(PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError(f"No free port between {PORTS.start} and {PORTS.stop} on loopback.")
