"""How often one address may ask, counted in Redis for all web processes together."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress

from flask import Flask, Response, request
from flask_limiter import Limiter
from redis import ConnectionPool, Redis
from werkzeug.middleware.proxy_fix import ProxyFix

from ml_backend import access
from workers.redis_client import REDIS_ERRORS
from workers.settings import Settings

UNAUTHORISED = 401

KNOWN_S = 24 * 3600
"""How long an address is known by which the right password was shown, in seconds."""

AGAIN_S = 3600
"""How long a process goes without saying so once more, in seconds."""


def limit(app: Flask, settings: Settings, counted_in: ConnectionPool) -> None:
    """Refuse those who ask too often with 429, and tell them when to ask again.

    Without Redis each process counts for itself: a limit is no reason to refuse what could be answered.

    Args:
        app: What they ask.
        settings: For how often, and for the proxies between them and us.
        counted_in: Connections to the Redis that counts.
    """
    if settings.proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # as its documentation says
            app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0, x_port=0, x_prefix=0
        )
    known = KnownAddresses(Redis(connection_pool=counted_in))

    def guesses_nothing() -> bool:
        header = request.headers.get("Authorization", "")
        if not settings.basic_user or access.shows_webhook_secret(request.path, header):
            return True
        return access.knows_password(settings, header) and _address() in known

    def remember(response: Response) -> Response:
        header = request.headers.get("Authorization", "")
        if settings.basic_user and response.status_code < UNAUTHORISED and access.knows_password(settings, header):
            known.add(_address())
        return response

    Limiter(
        _address,
        app=app,
        application_limits=[f"{settings.rate_limit}/second"] if settings.rate_limit else [],
        default_limits=[f"{settings.guess_limit}/minute"] if settings.guess_limit else [],
        default_limits_per_method=False,
        default_limits_deduct_when=_was_refused,
        default_limits_exempt_when=guesses_nothing,
        headers_enabled=True,
        storage_uri="redis://",
        storage_options={"connection_pool": counted_in},  # type: ignore[dict-item]  # what limits passes on to redis
        in_memory_fallback_enabled=True,
        swallow_errors=True,
        key_prefix="rsrefseg:limit",
    )
    app.after_request(remember)


class KnownAddresses:
    """The addresses by which the right password was shown within a day.

    From those it is taken however many wrong ones come from there too: a proxy, or a machine of many people, is one
    address. Everywhere else whoever guessed too often is not told that the last guess was right.

    Args:
        redis: Where all web processes look.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._said_at: dict[str, float] = {}

    def add(self, address: str) -> None:
        """Remember an address.

        Args:
            address: Where the right password came from.
        """
        if time.monotonic() - self._said_at.get(address, -AGAIN_S) >= AGAIN_S:
            with suppress(*REDIS_ERRORS):
                self._redis.set(_key(address), 1, ex=KNOWN_S)
                self._said_at[address] = time.monotonic()

    def __contains__(self, address: str) -> bool:
        """Say whether an address is known; without Redis none is that this process has not seen.

        Args:
            address: Where a request came from.

        Returns:
            Whether it is.
        """
        if time.monotonic() - self._said_at.get(address, -KNOWN_S) < KNOWN_S:
            return True
        with suppress(*REDIS_ERRORS):
            return bool(self._redis.exists(_key(address)))
        return False


def _key(address: str) -> str:
    return f"rsrefseg:known:{hashlib.sha256(address.encode()).hexdigest()[:32]}"


def _address() -> str:
    return request.remote_addr or "unknown"


def _was_refused(response: Response) -> bool:
    return response.status_code == UNAUTHORISED
