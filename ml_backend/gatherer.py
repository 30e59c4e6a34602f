"""What the courier does beside delivering: it fetches what annotators made of our masks.

Webhooks only wake it. What counts is what Label Studio holds: each project is looked through every few minutes, and
each task that is newer there than on disk is read, a few at a time. Whoever dies when, the next round finds the same
difference again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from redis.lock import Lock

from ml_backend.annotation import task_to_corrections
from ml_backend.courier import SERVER_ERROR
from ml_backend.errors import LabelStudioAway, NotFound, RequestRefused, UnusableConfig
from ml_backend.label_config import LabelConfig, read_label_config
from ml_backend.label_studio import LabelStudio, pages
from ml_backend.options import Options
from ml_backend.protocol import AnnotatedTask
from ml_backend.turns import take_turns
from workers import metrics
from workers.changes import Changes
from workers.corrections import Corrections
from workers.queue import JobQueue

log = logging.getLogger(__name__)

TASKS_AT_ONCE = 8
"""Tasks whose masks are in memory at once."""

WAITING_AT_ONCE = 200


class Gathered(NamedTuple):
    """What a round came to, in tasks."""

    written: int = 0
    withdrawn: int = 0


class Gatherer:
    """Brings the store in line with Label Studio.

    Args:
        queue: Where webhooks leave their events, and options of projects are.
        label_studio: Where annotations are.
        corrections: Where they go.
        changes: What is to be gathered.
    """

    def __init__(
        self, queue: JobQueue, label_studio: LabelStudio, corrections: Corrections, changes: Changes | None = None
    ) -> None:
        self.leaving = threading.Event()
        """Set when the process is asked to end: what is not gathered waits."""
        self._queue = queue
        self._label_studio = label_studio
        self._corrections = corrections
        self._changes = changes or Changes(queue.redis, queue.settings.reconcile_s)

    def round(self) -> Gathered:
        """Gather what changed, and look through the projects whose time has come.

        Returns:
            What it came to.
        """
        while self._changes.drain():
            pass
        self._changes.know(self._corrections.projects())
        came_to = take_turns(self._turns())
        return Gathered(sum(one.written for one in came_to), sum(one.withdrawn for one in came_to))

    def _turns(self) -> Iterator[tuple[int, Callable[[], Gathered]]]:
        for project_id, tasks in self._changes.waiting(WAITING_AT_ONCE).items():
            yield project_id, partial(self._gather_waiting, project_id, tasks)
        for project_id, seen in self._changes.due().items():
            yield project_id, partial(self._reconcile, project_id, seen)

    def _gather_waiting(self, project_id: int, tasks: Mapping[int, float]) -> Gathered:
        with self._changes.alone_at(project_id) as alone:
            if alone is None:
                return Gathered()
            gathered = self._gather(project_id, list(tasks), alone)
            for task_id, when in tasks.items():
                if not self.leaving.is_set():
                    self._changes.done(project_id, task_id, when)
            return gathered

    def _reconcile(self, project_id: int, seen: float) -> Gathered:
        with self._changes.alone_at(project_id) as alone:
            if alone is None:
                return Gathered()
            began = time.time()
            self._corrections.sweep(project_id)
            gathered = self._look_through(project_id, alone)
            if not self.leaving.is_set():
                self._changes.looked_through(project_id, seen, began)
            return gathered

    def _look_through(self, project_id: int, alone: Lock) -> Gathered:
        kept = self._corrections.marks(project_id)
        different: list[int] = []
        try:
            for task_id, updated_at in self._annotated(project_id, alone):
                if kept.pop(task_id, None) != updated_at:
                    different.append(task_id)
        except (NotFound, RequestRefused) as exc:
            log.warning("project not looked through", extra={"project_id": project_id, "reason": str(exc)})
            return Gathered()
        # What is left has no annotations any more; it is looked at again rather than believed.
        return self._gather(project_id, [*different, *kept], alone)

    def _annotated(self, project_id: int, alone: Lock) -> Iterator[tuple[int, str]]:
        for page in pages(lambda after: self._label_studio.annotated(project_id, after)):
            yield from ((task.id, task.updated_at) for task in page.tasks)
            if self.leaving.is_set():
                return
            _renew(alone)

    def _gather(self, project_id: int, task_ids: Sequence[int], alone: Lock) -> Gathered:
        if not task_ids:
            return Gathered()
        began = time.monotonic()
        try:
            config = read_label_config(
                self._label_studio.label_config(project_id), Options.kept(self._queue.options(project_id))
            )
        except (NotFound, RequestRefused, UnusableConfig) as exc:
            log.warning("corrections not gathered", extra={"project_id": project_id, "reason": str(exc)})
            return Gathered()
        written = withdrawn = 0
        for start in range(0, len(task_ids), TASKS_AT_ONCE):
            if self.leaving.is_set():
                break
            some = task_ids[start : start + TASKS_AT_ONCE]
            found = self._read(project_id, some)
            for task_id in some:
                exists, task = task_id in found, found.pop(task_id, None)
                if exists and task is None:
                    continue  # Nobody can say what became of it.
                if task is None or all(annotation.was_cancelled for annotation in task.annotations):
                    withdrawn += self._corrections.withdraw(project_id, task_id)
                else:
                    written += self._write(project_id, task, config)
            _renew(alone)
        facts = {"project_id": project_id, "tasks": len(task_ids), "written": written, "withdrawn": withdrawn}
        log.info("corrections gathered", extra={**facts, "seconds": round(time.monotonic() - began, 3)})
        return Gathered(written, withdrawn)

    def _read(self, project_id: int, task_ids: Sequence[int]) -> dict[int, AnnotatedTask | None]:
        try:
            return self._label_studio.with_annotations(project_id, task_ids)
        except LabelStudioAway as exc:
            if exc.status != SERVER_ERROR:
                raise
            # It may break over one of them, which is none of the others' business.
            if len(task_ids) > 1:
                return {number: task for one in task_ids for number, task in self._read(project_id, [one]).items()}
            log.warning(
                "task not readable", extra={"project_id": project_id, "task_id": task_ids[0], "reason": str(exc)}
            )
            return {task_ids[0]: None}

    def _write(self, project_id: int, task: AnnotatedTask, config: LabelConfig) -> bool:
        try:
            before = self._corrections.get(project_id, task.id)
            after = task_to_corrections(task, project_id, config, before)
            self._corrections.put(after)
            metrics.count_corrections(before, after)
        except Exception:
            # One task must not keep all others from being gathered; the next round tries it again.
            log.exception("task not gathered", extra={"project_id": project_id, "task_id": task.id})
            return False
        return True


def _renew(alone: Lock) -> None:
    # Raises where another took the project meanwhile: then this one is too slow, and leaves it to them.
    alone.reacquire()
