"""How many of something happen in a second, counted in Redis over the last minute by all processes together."""

from __future__ import annotations

import time

from redis import Redis
from redis.client import Pipeline

from workers.lines import PREFIX

SLOT_S = 10
"""What is counted together, in seconds."""

SLOTS = 6
"""How many of them make a rate; the one under way does not count yet."""


class Rate:
    """One thing that is counted.

    Args:
        name: Of the thing.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def count(self, pipe: Pipeline) -> None:
        """Say that it happened once.

        Args:
            pipe: To send it with.
        """
        key = self._slot(int(time.time() // SLOT_S))
        pipe.incr(key)
        pipe.expire(key, SLOT_S * (SLOTS + 2))

    def per_s(self, redis: Redis) -> float:
        """Say how often it happens.

        Args:
            redis: Where it is counted.

        Returns:
            Times in a second, over the last minute.
        """
        last = int(time.time() // SLOT_S) - 1
        counts = redis.mget([self._slot(last - number) for number in range(SLOTS)])
        return sum(int(count or 0) for count in counts) / (SLOT_S * SLOTS)

    def _slot(self, number: int) -> str:
        return f"{PREFIX}{self._name}:{number}"
