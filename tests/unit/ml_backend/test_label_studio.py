"""The connection to Label Studio, over a stand-in on loopback that exchanges personal tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import jwt
import pytest

from ml_backend.errors import KeyRefused
from ml_backend.label_studio import LabelStudio
from tests.loopback import Answering, serving

pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # label-studio-sdk 2.1.2


def sign(kind: str, seconds: float) -> str:
    claims = {"token_type": kind, "exp": time.time() + seconds, "jti": str(time.monotonic_ns())}
    return jwt.encode(claims, "k" * 32)


PERSONAL = sign("refresh", 100_000)


@dataclass
class Exchange:
    """Gives tokens that hold for `seconds`, and knows the newest alone."""

    url: str = ""
    seconds: float = 300
    given: list[str] = field(default_factory=list)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()

    class Tokens(Answering, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if sent == {"refresh": PERSONAL}:
                exchange.given.append(sign("access", exchange.seconds))
                self.say(200, {"access": exchange.given[-1]})
            else:
                self.say(401, {"detail": "Token is invalid"})

        def do_GET(self) -> None:
            known = exchange.given and self.headers["Authorization"] == f"Bearer {exchange.given[-1]}"
            user = {"id": 1, "email": "user@example.com", "username": "user"}
            self.say(200, user) if known else self.say(401, {"detail": "Invalid token."})

    with serving(Tokens) as exchange.url:
        yield exchange


def test_a_connection_that_outlives_its_access_token_gets_another(exchange: Exchange) -> None:
    exchange.seconds = 0.5
    with closing(LabelStudio(exchange.url, PERSONAL)) as door:
        assert door.check_key() == "user@example.com"
        time.sleep(0.6)
        exchange.seconds = 300
        assert [door.check_key() for _ in range(2)] == ["user@example.com"] * 2
    assert len(exchange.given) == 2


def test_a_personal_token_that_is_not_exchanged_is_told_as_a_key_that_is_refused(exchange: Exchange) -> None:
    for key in (sign("refresh", 1000), sign("refresh", -1000)):
        with (
            pytest.raises(KeyRefused, match="LABEL_STUDIO_API_KEY") as said,
            closing(LabelStudio(exchange.url, key)) as door,
        ):
            door.check_key()
        assert key not in str(said.value)
