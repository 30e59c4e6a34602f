from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from workers.ports import PORTS, free_port

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as used:
        choices = iter([used.getsockname()[1], free])
        monkeypatch.setattr(secrets, "choice", lambda _: next(choices))
        assert free_port() == free


def test_where_all_are_in_use_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        monkeypatch.setattr(secrets, "choice", lambda _: used.getsockname()[1])
        with pytest.raises(OSError, match="No free port between 20000 and 32768"):
            free_port()


@pytest.mark.skipif(not GIVEN.exists(), reason=f"{GIVEN} is of Linux")
def test_no_outgoing_connection_gets_such_a_port() -> None:
    assert PORTS.stop <= int(GIVEN.read_text().split()[0])
