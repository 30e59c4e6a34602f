"""What can go wrong in this room, and whose move it is.

WorkersError
├── SettingsError       the operator's: the environment does not describe a way to run
├── RedisServerError    the operator's: the embedded Redis does not run
├── ImageRefused        the annotator's or the operator's, as it says: there will be no image
└── Unavailable         wait and retry
    ├── QueueFull
    ├── RedisAway
    └── ImageAway

JobStopped              somebody's wish: the job in hand ends here
"""

from __future__ import annotations

from typing import Literal

Move = Literal["annotator", "wait", "ours"]
"""Who can do something about it; ours is whoever runs the worker."""


class WorkersError(Exception):
    """The root of this room's errors."""


class SettingsError(WorkersError):
    """The environment does not describe a way to run; each line says what to change."""


class RedisServerError(WorkersError):
    """The embedded Redis does not run; the sentence says why and what to do."""


class ImageRefused(WorkersError):
    """There will be no image, however often it is asked for.

    Args:
        reason: A sentence that names the image and what to do.
        move: Who can do something about it.
    """

    def __init__(self, reason: str, move: Move = "annotator") -> None:
        super().__init__(reason)
        self.move: Move = move


class Unavailable(WorkersError):
    """Nothing is wrong with what was asked; ask again later."""


class QueueFull(Unavailable):
    """More requests wait than may.

    Args:
        reason: How full the queue is.
        retry_after_s: When to come again.
    """

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RedisAway(Unavailable):
    """Redis does not answer."""


class ImageAway(Unavailable):
    """Whoever has the image does not answer."""


class JobStopped(BaseException):
    """A person stopped the job in hand; not an Exception, so that no job swallows it."""
