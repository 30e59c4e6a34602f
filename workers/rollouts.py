"""How far each project's last move of the alias has come in Label Studio, and whose older predictions are to go.

    Move --follow--> queued again --delivered--> shown
                                      |
                                      +--replaced--> due --older ones deleted--> removed

All of it is in Redis and may be lost: the next look at the registry begins anew, and finds most of it done.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Annotated, Any

from pydantic import AwareDatetime, Field
from redis import Redis
from redis.lock import Lock

from workers.contract import Wire
from workers.lines import PREFIX
from workers.redis_client import renaming_redis_errors
from workers.waiting import Waiting, alone, numbers

ALONE_S = 30
"""How long a project is kept from others unless that is renewed, in seconds."""

_ROLLOUTS = PREFIX + "rollouts"


class Rollout(Wire):
    """How far a move has come."""

    number: int
    """Of the move."""
    version: Annotated[str, Field(min_length=1)]
    """What is to be shown; of the base, the version that workers loaded."""
    began_at: AwareDatetime
    after: int = 0
    """The last task that was looked at."""
    asked: int = 0
    """Tasks that were queued again."""
    looked_through: bool = False
    shown: bool = False
    """Whether Label Studio shows the version, or it was decided that it need not."""
    tries: int = 0
    """How often everything was drawn and nothing of it by this version."""
    not_before: AwareDatetime | None = None
    """When the next try is made."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.looked_through and self.shown

    def but(self, **changes: Any) -> Rollout:
        """Copy it.

        Args:
            **changes: What is different.

        Returns:
            The copy.
        """
        return self.model_copy(update=changes)


class Rollouts:
    """What is known of all projects.

    Args:
        redis: A client, as `connect` makes it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @renaming_redis_errors()
    def get(self, project_id: int) -> Rollout | None:
        """Recall how far a project's last move has come.

        Args:
            project_id: The project.

        Returns:
            How far; None if none was ever followed.
        """
        text = self._redis.hget(_ROLLOUTS, str(project_id))
        return None if text is None else Rollout.model_validate_json(text)

    @renaming_redis_errors()
    def keep(self, project_id: int, rollout: Rollout) -> None:
        """Remember how far a project's last move has come.

        Args:
            project_id: The project.
            rollout: How far.
        """
        self._redis.hset(_ROLLOUTS, str(project_id), rollout.model_dump_json())

    @renaming_redis_errors()
    def replaced(self, project_id: int, *task_ids: int) -> None:
        """Say that tasks have predictions of several versions, of which older ones may be ours.

        Args:
            project_id: Their project; where its alias never moved, nothing is remembered.
            *task_ids: The tasks.
        """
        if task_ids and self._redis.hexists(_ROLLOUTS, str(project_id)):
            now = time.time()
            self._replaced(project_id).add({str(task_id): now for task_id in task_ids})

    def due(self, project_id: int, older_s: float, most: int) -> dict[int, float]:
        """List tasks whose older predictions are to go.

        Args:
            project_id: The project.
            older_s: Those that were replaced so long ago, in seconds.
            most: How many are wanted.

        Returns:
            When that was, to be handed to `removed`, by task.
        """
        return numbers(self._replaced(project_id).until(time.time() - older_s, most))

    def removed(self, project_id: int, task_id: int, when: float) -> None:
        """Say that a task's older predictions are gone, or stay; what was replaced since goes on waiting.

        Args:
            project_id: Its project.
            task_id: The task.
            when: What `due` said.
        """
        self._replaced(project_id).done(str(task_id), when)

    def alone_at(self, project_id: int) -> AbstractContextManager[Lock | None]:
        """Keep others off what follows a project's moves.

        Args:
            project_id: The project.

        Returns:
            What renews that by `reacquire`; None if another is there.
        """
        return alone(self._redis, f"{PREFIX}rolling-out:{project_id}", ALONE_S)

    def _replaced(self, project_id: int) -> Waiting:
        return Waiting(self._redis, f"{PREFIX}replaced:{project_id}")
