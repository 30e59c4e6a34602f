"""The client of Redis: one that notices soon when nobody is there, and says so in one word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from workers.errors import RedisAway

REDIS_ERRORS = (RedisConnectionError, RedisTimeoutError, RedisAway)
"""What says that Redis is away, by the client's doors and by ours."""


def connect(url: str) -> Redis:
    """Make a client that does not wait long for a Redis that is away.

    Args:
        url: Where Redis is.

    Returns:
        The client; it connects when it is used.
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=0.5,
        socket_timeout=5,
        health_check_interval=15,
        retry=Retry(ConstantBackoff(0.1), 1),
    )


@contextmanager
def renaming_redis_errors() -> Iterator[None]:
    """Say `RedisAway` where the client has many words for it; also a decorator.

    Yields:
        Nothing.

    Raises:
        RedisAway: If Redis does not answer.
    """
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as exc:
        raise RedisAway(f"Redis does not answer: {exc}") from exc
