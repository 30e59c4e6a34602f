"""Which tasks' annotations changed, and when each project was last looked through: what makes gathering resumable.

    webhook --keep_event--> events --drain--> waiting --read, written--> done

Nothing leaves `waiting` before what it stands for is on disk, and nothing at all depends on a webhook: a project is
looked through as a whole every few minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

from pydantic import ValidationError
from redis import Redis
from redis.lock import Lock
from rq.utils import as_text

from workers.lines import PREFIX
from workers.notices import EVENTS, PROJECTS, Event
from workers.redis_client import renaming_redis_errors
from workers.waiting import Waiting, alone, numbers

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 500

PROJECTS_AT_ONCE = 100

QUIET_S = 2.0
"""How long a task or a project is left alone after something happened there, in seconds."""

ALONE_S = 120
"""How long a project is kept from others unless that is renewed, in seconds."""

_MARK, _WAITING = PREFIX + "gather:mark", PREFIX + "gather:waiting"
_WISHED = PREFIX + "training:wished"

TRAINING_EVENT = "START_TRAINING"
"""Somebody wishes for a training; first what they did is gathered."""

TASK_EVENTS = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "TASKS_DELETED"})
"""Those that name the tasks that they are about."""

PROJECT_EVENTS = frozenset({"ANNOTATIONS_DELETED", "TASKS_CREATED"})
"""Those that do not, or that name thousands of which few have annotations."""


class Changes:
    """What is to be gathered.

    Args:
        redis: A client, as `connect` makes it.
        reconcile_s: How often each project is looked through, in seconds.
    """

    def __init__(self, redis: Redis, reconcile_s: float) -> None:
        self._redis = redis
        self._reconcile_s = reconcile_s
        self._tasks, self._projects = Waiting(redis, _WAITING), Waiting(redis, PROJECTS)
        self._wished = Waiting(redis, _WISHED)

    @renaming_redis_errors()
    def drain(self) -> int:
        """Take what webhooks said since the last time.

        Returns:
            How many events there were, unreadable ones included.
        """
        mark = as_text(self._redis.get(_MARK) or "-")
        found = self._redis.xrange(EVENTS, f"({mark}" if mark != "-" else "-", "+", count=EVENTS_AT_ONCE)
        if not found:
            return 0
        # All or nothing, so that whoever dies here loses nothing; the mark makes no event count twice.
        with self._redis.pipeline(transaction=True) as pipe:
            for number, fields in found:
                try:
                    event = Event.model_validate_json((fields or {})[b"event"])
                except (KeyError, ValidationError) as exc:
                    # Of another version of ours, perhaps; what it is about is found as its project is looked through.
                    log.warning("event not readable", extra={"event_id": as_text(number), "error": type(exc).__name__})
                    continue
                now = time.time()
                if event.action == TRAINING_EVENT:
                    pipe.zadd(_WISHED, {str(event.project_id): now})
                if event.action in TASK_EVENTS and event.task_ids:
                    pipe.zadd(PROJECTS, {str(event.project_id): 0}, nx=True)
                    pipe.zadd(_WAITING, {f"{event.project_id}:{task_id}": now for task_id in event.task_ids})
                elif event.action in TASK_EVENTS | PROJECT_EVENTS | {TRAINING_EVENT}:
                    pipe.zadd(PROJECTS, {str(event.project_id): now + QUIET_S - self._reconcile_s}, lt=True)
            pipe.set(_MARK, as_text(found[-1][0]))
            pipe.execute()
        return len(found)

    def waiting(self, most: int) -> dict[int, dict[int, float]]:
        """List tasks whose annotations changed and have been quiet since.

        Args:
            most: How many are wanted.

        Returns:
            By project and task, when that was, to be handed to `done`.
        """
        found: dict[int, dict[int, float]] = {}
        for member, score in self._tasks.until(time.time() - QUIET_S, most):
            project, _, task = member.partition(":")
            found.setdefault(int(project), {})[int(task)] = score
        return found

    def done(self, project_id: int, task_id: int, when: float) -> None:
        """Say that a task was gathered; if it changed again meanwhile it goes on waiting.

        Args:
            project_id: Its project.
            task_id: The task.
            when: What `waiting` said.
        """
        self._tasks.done(f"{project_id}:{task_id}", when)

    def know(self, project_ids: Iterable[int]) -> None:
        """Name projects that are to be looked through from now on; those known already stay as they are.

        Args:
            project_ids: The projects.
        """
        self._projects.add({str(project_id): 0 for project_id in project_ids}, new=True)

    def want(self, project_id: int) -> float:
        """Have a project looked through as soon as a courier can.

        Args:
            project_id: The project.

        Returns:
            Now, for `looked_through_since`.
        """
        now = time.time()  # First, lest it be looked through before that.
        self._projects.sooner(str(project_id), 0)
        return now

    def due(self) -> dict[int, float]:
        """List projects that are to be looked through now, the one that waits longest first.

        Returns:
            What `looked_through` is to be handed, by project.
        """
        return numbers(self._projects.until(time.time() - self._reconcile_s, PROJECTS_AT_ONCE))

    def looked_through(self, project_id: int, seen: float, began: float) -> None:
        """Say that a project was looked through, to its end; if it is wanted anew since, that stays.

        Args:
            project_id: The project.
            seen: What `due` said.
            began: When that began, in seconds since 1970.
        """
        self._projects.done(str(project_id), seen, again=began)

    def wished(self) -> dict[int, float]:
        """List projects for which somebody wishes a training.

        Returns:
            When that was, to be handed to `granted`, by project.
        """
        return numbers(self._wished.until(time.time(), PROJECTS_AT_ONCE))

    def looked_through_since(self, project_id: int, when: float) -> bool:
        """Say whether a project is gathered as it was at a time.

        Args:
            project_id: The project.
            when: The time, in seconds since 1970.

        Returns:
            Whether it was looked through as a whole, from its beginning on, after that.
        """
        began = self._projects.since(str(project_id))
        return began is not None and began >= when

    def granted(self, project_id: int, when: float) -> None:
        """Say that a training was asked for as somebody wished.

        Args:
            project_id: The project.
            when: What `wished` said; a wish that came since stays.
        """
        self._wished.done(str(project_id), when)

    def alone_at(self, project_id: int) -> AbstractContextManager[Lock | None]:
        """Keep others off a project.

        Args:
            project_id: The project.

        Returns:
            What renews that by `reacquire`; None if another is there.
        """
        return alone(self._redis, f"{PREFIX}gathering:{project_id}", ALONE_S)
