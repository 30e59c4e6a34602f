"""Projects have their turns one after the other, also those that come after one that Label Studio breaks over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from redis.exceptions import LockError

from ml_backend.errors import LabelStudioAway, LabelStudioRefused

log = logging.getLogger(__name__)

Done = TypeVar("Done")


def take_turns(turns: Iterable[tuple[int, Callable[[], Done]]]) -> list[Done]:
    """Do what is to be done for each of several projects.

    Args:
        turns: The project's number, and what does it.

    Returns:
        What came of each.

    Raises:
        LabelStudioAway: As soon as Label Studio does not answer at all, which is no single project's trouble; and after
            all have had their turn, if it broke over the first that has to wait.
        LabelStudioRefused: After all have had their turn, if it said no to the first that has to wait.
        LockError: The same, where another took that project meanwhile.
    """
    came_to: list[Done] = []
    first: Exception | None = None
    for project_id, do in turns:
        try:
            came_to.append(do())
        except (LabelStudioAway, LabelStudioRefused, LockError) as exc:
            if isinstance(exc, LabelStudioAway) and exc.status is None:
                raise
            log.warning("project waits", extra={"project_id": project_id, "reason": str(exc)})
            first = first or exc
    if first is not None:
        raise first
    return came_to
