"""How often one address may ask, counted in Redis for all web processes together."""

from __future__ import annotations

from flask import Flask, Response, request
from flask_limiter import Limiter
from redis import ConnectionPool

from workers.settings import Settings

UNAUTHORISED = 401


def limit(app: Flask, settings: Settings, counted_in: ConnectionPool) -> None:
    """Refuse those who ask too often with 429, and tell them when to ask again.

    Without Redis each process counts for itself: a limit is no reason to refuse what could be answered.

    Args:
        app: What they ask.
        settings: For how often.
        counted_in: Connections to the Redis that counts.
    """
    Limiter(
        _address,
        app=app,
        application_limits=[f"{settings.rate_limit}/second"] if settings.rate_limit else [],
        default_limits=[f"{settings.guess_limit}/minute"] if settings.guess_limit else [],
        default_limits_per_method=False,
        default_limits_deduct_when=_was_refused,
        headers_enabled=True,
        storage_uri="redis://",
        storage_options={"connection_pool": counted_in},  # type: ignore[dict-item]  # what limits passes on to redis
        in_memory_fallback_enabled=True,
        swallow_errors=True,
        key_prefix="rsrefseg:limit",
    )


def _address() -> str:
    return request.remote_addr or "unknown"


def _was_refused(response: Response) -> bool:
    return response.status_code == UNAUTHORISED
