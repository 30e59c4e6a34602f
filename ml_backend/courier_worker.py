"""The courier as an RQ worker: one process, no torch, one delivery at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import FrameType

from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.utils import now

from ml_backend.beside import Beside, Rounds
from ml_backend.courier import Courier, employ
from ml_backend.errors import KeyRefused, LabelStudioAway, LabelStudioRefused, StartFailed
from ml_backend.gatherer import Gatherer
from ml_backend.housekeeper import Housekeeper
from ml_backend.label_studio import LabelStudio
from ml_backend.new_corrections import NewCorrections
from ml_backend.rollout import Follower
from ml_backend.trigger import Trigger
from workers import exposition, leased, traces
from workers.changes import Changes
from workers.corrections import Corrections
from workers.leased import LeasedWorker, Pace, Stop
from workers.queue import JobQueue
from workers.registry import Registry
from workers.settings import Settings

log = logging.getLogger(__name__)

LONGEST_S = 3600
"""Longest that one delivery may take; it waits for Label Studio less than that."""


class CourierWorker(LeasedWorker):
    """Takes deliveries from the queue while Redis is there.

    Args:
        queue: Where the deliveries are.
        courier: Who makes them.
        stop: Set when somebody asks the process to end.
        pace: How soon its death is noticed.
    """

    def __init__(self, queue: JobQueue, courier: Courier, stop: Stop, pace: Pace) -> None:
        super().__init__(queue.label_studio, stop, pace, prefix="courier-")
        self._courier = courier

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Make one delivery.

        Args:
            job: The delivery.
            queue: Where it was.
        """
        job.timeout = LONGEST_S
        super().execute_job(job, queue)

    def renew(self, job: Job, execution: Execution) -> None:
        """Say that the delivery still runs, and keep others off its task.

        Args:
            job: The delivery.
            execution: This run of it.
        """
        super().renew(job, execution)
        self._courier.renew()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """End after the delivery in hand; one that waits for Label Studio goes back to the queue.

        Args:
            signum: SIGTERM or SIGINT.
            frame: Where the process was.
        """
        self._courier.leaving = True
        super().request_stop(signum, frame)

    def clean_registries(self) -> None:
        """Leave that to the housekeeper."""
        self.last_cleaned_at = now()


def run(settings: Settings) -> None:
    """Deliver until SIGTERM or SIGINT.

    Args:
        settings: Where Label Studio and Redis are.

    Raises:
        StartFailed: If Label Studio does not accept our key.
    """
    label_studio = LabelStudio.of(settings)
    with JobQueue.open(settings) as queue:
        queue.ping()
        try:
            label_studio.check_key()
        except KeyRefused as exc:
            raise StartFailed(str(exc)) from exc
        except (LabelStudioAway, LabelStudioRefused) as exc:
            log.warning("label studio is away; deliveries wait for it", extra={"reason": str(exc)})
        # Connections of their own: what is read there takes long, and is done at the same time.
        exposition.show(settings)
        traces.start(settings, "rsrefseg-courier")
        changes = Changes(queue.redis, settings.reconcile_s)
        gatherer = Gatherer(queue, LabelStudio.of(settings), Corrections(settings.data), changes)
        follower = Follower(queue, LabelStudio.of(settings), Registry(settings.data))
        trigger = Trigger(queue, changes, NewCorrections(settings.data))
        serve(queue, Courier(queue, label_studio), beside=[gatherer, follower, trigger])


def serve(queue: JobQueue, courier: Courier, pace: Pace | None = None, beside: Sequence[Rounds] = ()) -> None:
    """Deliver, and do all else that is the courier's, until SIGTERM or SIGINT, whatever becomes of Redis meanwhile.

    Args:
        queue: Where the deliveries are.
        courier: Who makes them.
        pace: How soon its death is noticed.
        beside: Who makes rounds on threads of their own.
    """
    pace = pace or Pace()
    employ(courier)
    housekeeper = Housekeeper(queue, pace.round_s)
    housekeeper.start()
    threads = [Beside(rounds) for rounds in beside]
    for thread in threads:
        thread.start()
    log.info("courier ready")
    stop = Stop()
    leased.serve(lambda: CourierWorker(queue, courier, stop, pace), stop)
    for thread in threads:
        thread.stop()
    housekeeper.stop()
