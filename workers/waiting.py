"""Sorted sets of Redis in which things wait, each since its own time; and locks that keep others off a thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from redis import Redis
from redis.exceptions import LockError
from redis.lock import Lock
from rq.utils import as_text

from workers.redis_client import renaming_redis_errors

_UNLESS_CHANGED = """
-- KEYS: a sorted set; ARGV: member, the score that was seen, the new score or nothing to take it out
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 'nan') ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '' then redis.call('ZREM', KEYS[1], ARGV[1]) else redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1]) end
return 1
"""


class Waiting:
    """One such set.

    Args:
        redis: A client, as `connect` makes it.
        key: Where it is.
    """

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis = redis
        self._key = key
        self._unless_changed = redis.register_script(_UNLESS_CHANGED)

    @renaming_redis_errors()
    def add(self, members: Mapping[str, float], *, new: bool = False) -> None:
        """Let things wait.

        Args:
            members: Since when each of them waits, in seconds since 1970.
            new: Whether those that wait already stay as they are.
        """
        if members:
            self._redis.zadd(self._key, dict(members), nx=new)

    @renaming_redis_errors()
    def sooner(self, member: str, since: float) -> None:
        """Let a thing wait since an earlier time; what waits for longer stays as it is.

        Args:
            member: The thing.
            since: The time, in seconds since 1970.
        """
        self._redis.zadd(self._key, {member: since}, lt=True)

    @renaming_redis_errors()
    def until(self, when: float, most: int) -> list[tuple[str, float]]:
        """List what waits for long enough.

        Args:
            when: Since this time or longer.
            most: How many are wanted.

        Returns:
            What waits, and since when, the longest first.
        """
        found: Any = self._redis.zrangebyscore(self._key, "-inf", when, start=0, num=most, withscores=True)
        return [(as_text(member), float(since)) for member, since in found]

    @renaming_redis_errors()
    def since(self, member: str) -> float | None:
        """Say since when a thing waits.

        Args:
            member: The thing.

        Returns:
            Seconds since 1970; None if it does not.
        """
        found = self._redis.zscore(self._key, member)
        return None if found is None else float(found)

    @renaming_redis_errors()
    def done(self, member: str, seen: float, again: float | None = None) -> None:
        """Take a thing out; if it began to wait anew meanwhile it goes on waiting.

        Args:
            member: The thing.
            seen: What `until` said.
            again: Since when it waits from now on, in place of not at all.
        """
        self._unless_changed([self._key], [member, repr(seen), "" if again is None else repr(again)])


@contextmanager
def alone(redis: Redis, key: str, seconds: float) -> Iterator[Lock | None]:
    """Keep others off something.

    Args:
        redis: A client, as `connect` makes it.
        key: What.
        seconds: How long, unless that is renewed.

    Yields:
        What renews that by `reacquire`; None if another is there.
    """
    lock = redis.lock(key, timeout=seconds, thread_local=False)
    with renaming_redis_errors():
        mine = lock.acquire(blocking=False)
    if not mine:
        yield None
        return
    try:
        yield lock
    finally:
        with suppress(LockError), renaming_redis_errors():
            lock.release()


def numbers(members: Iterable[tuple[str, float]]) -> dict[int, float]:
    """Read members that are numbers.

    Args:
        members: What `Waiting.until` said.

    Returns:
        Since when each waits.
    """
    return {int(member): since for member, since in members}
