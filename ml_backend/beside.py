"""What the courier does beside its deliveries, on threads of its own: rounds that are made again and again.

Each of them compares what is with what should be, so whoever dies when, the next round finds the same difference.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from redis.exceptions import LockError

from ml_backend.errors import LabelStudioAway, LabelStudioRefused
from workers.queue import RedisAway

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How long after one round the next is made, in seconds."""

PAUSE_S = 15.0
"""How long a Label Studio that is away is left alone, in seconds."""


class Rounds(Protocol):
    """Who makes them."""

    leaving: threading.Event
    """Set when the process is asked to end: what is not done waits for the next one."""

    def round(self) -> object:
        """Do what is to be done now."""


class Beside(threading.Thread):
    """Makes rounds beside the deliveries.

    Args:
        rounds: Who does what is to be done.
    """

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(name=type(rounds).__name__.lower(), daemon=True)
        self._rounds = rounds

    def run(self) -> None:
        """Make rounds until `stop`, whatever becomes of Redis and Label Studio meanwhile."""
        away = False
        pause_s = LOOK_S
        while not self._rounds.leaving.wait(pause_s):
            try:
                self._rounds.round()
                away, pause_s = False, LOOK_S
            except (LabelStudioAway, LabelStudioRefused, RedisAway, LockError, OSError) as exc:
                if not away:
                    log.warning(f"{self.name} waits", extra={"reason": str(exc)})
                away, pause_s = True, PAUSE_S
            except Exception:
                log.exception(f"{self.name} failed and begins anew")
                pause_s = PAUSE_S

    def stop(self) -> None:
        """End the thread; what it had no time for is done by the next."""
        self._rounds.leaving.set()
        self.join(timeout=PAUSE_S)
