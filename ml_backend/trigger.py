"""When a project is retrained: often enough that corrections count soon, seldom enough that they are worth it."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Literal

from ml_backend.new_corrections import New, NewCorrections
from workers.changes import Changes
from workers.contract import TrainJob
from workers.queue import JobQueue
from workers.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often corrections are counted, in seconds."""

AT_THE_LATEST = 2
"""With so many times the corrections that are enough, nobody waits any longer for a pause in the work."""


Why = Literal["count", "time"]


def decide(new: New, ended_at: datetime | None, now: datetime, settings: Settings) -> Why | None:
    """Decide whether a project is to be retrained now, without anybody asking for it.

    Args:
        new: Its corrections that no training has looked at.
        ended_at: When its last training ended; None before the first.
        now: The time.
        settings: How many are enough, and how long fewer wait.

    Returns:
        Because there are enough, or because fewer have waited long enough; None to wait.
    """
    if new.first_at is None or new.last_at is None:
        return None
    after, least = settings.retrain_after, settings.retrain_least
    quiet = now - new.last_at >= timedelta(seconds=settings.retrain_quiet_s)
    if after and new.corrections >= after and (quiet or new.corrections >= AT_THE_LATEST * after):
        return "count"
    due = now - max(new.first_at, ended_at or new.first_at) >= timedelta(hours=settings.retrain_hours)
    if settings.retrain_hours and due and new.corrections >= least and quiet:
        return "time"
    return None


class Trigger:
    """Asks for trainings.

    Args:
        queue: Where trainings are asked for, and how the last ones ended.
        changes: Who wishes for one, and how far gathering is.
        new: Counts what is new.
    """

    def __init__(self, queue: JobQueue, changes: Changes, new: NewCorrections) -> None:
        self.leaving = threading.Event()
        """Set when the process is asked to end."""
        self._queue = queue
        self._changes = changes
        self._new = new
        self._looked = -LOOK_S

    def round(self) -> None:
        """Ask for what was wished for, and for what is due."""
        for project_id, when in self._changes.wished().items():
            # The wish is about what people did before it.
            if self._changes.looked_through_since(project_id, when) and self._grant(project_id, when):
                self._changes.granted(project_id, when)
        if time.monotonic() - self._looked >= LOOK_S:
            self._look()
            self._looked = time.monotonic()

    def _grant(self, project_id: int, when: float) -> bool:
        training = self._queue.trainings().get(project_id)
        if self._ask(TrainJob(project_id=project_id, why="asked")):
            return True
        # Another was asked for before. One that has not begun will look at all that is gathered; one that has may have
        # looked before the rest of it came, and then the wish waits for its end.
        begun = training is not None and training.stage != "waiting"
        covered = training is not None and training.began_at.timestamp() >= when
        if begun and not (covered and not self._new.of(project_id, training).corrections):
            return False
        log.info("training is on its way already", extra={"project_id": project_id})
        return True

    def _look(self) -> None:
        trainings = self._queue.trainings()
        for project_id in self._new.projects():
            if self.leaving.is_set():
                return
            training = trainings.get(project_id)
            new = self._new.of(project_id, training)
            ended_at = training.at if training else self._new.made_at(project_id)
            why = decide(new, ended_at, datetime.now(UTC), self._queue.settings)
            if why is not None:
                self._ask(TrainJob(project_id=project_id, why=why), new.corrections)

    def _ask(self, job: TrainJob, new: int | None = None) -> bool:
        asked = self._queue.ask_training(job)
        if asked:
            facts = {"project_id": job.project_id, "why": job.why, **({} if new is None else {"new": new})}
            log.info("training asked for", extra=facts)
        return asked
