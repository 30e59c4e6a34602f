"""The courier as an RQ worker: one process, no torch, one delivery at a time."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.utils import now
from rq.worker import WorkerStatus

from ml_backend.courier import Courier, employ
from ml_backend.errors import KeyRefused, LabelStudioAway, LabelStudioRefused, StartFailed
from ml_backend.housekeeper import Housekeeper
from ml_backend.label_studio import LabelStudio
from workers.queue import JobQueue, RedisAway
from workers.settings import Settings

log = logging.getLogger(__name__)

LONGEST_S = 3600
"""Longest that one delivery may take; it waits for Label Studio less than that."""

RECONNECT_S = 1.0
"""Pause before a courier that lost Redis looks again, in seconds."""

REDIS_ERRORS = (RedisError, RedisAway)
"""What says that Redis is away, by RQ's doors and by ours."""


@dataclass(frozen=True)
class Pace:
    """How soon the death of a courier is noticed, in seconds."""

    beat_s: int = 5
    """Between two renewals of the lease on the delivery in hand."""
    lease_s: int = 20
    """How long that lease outlives its last renewal."""
    look_s: int = 5
    """How long one look for the next delivery takes at most, and between two looks for those of the dead."""


class CourierWorker(SimpleWorker):  # type: ignore[misc]  # rq is not followed
    """Takes deliveries from the queue while Redis is there.

    Args:
        queue: Where the deliveries are.
        courier: Who makes them.
        pace: How soon its death is noticed.
    """

    max_connection_wait_time = 5.0

    def __init__(self, queue: JobQueue, courier: Courier, pace: Pace) -> None:
        super().__init__(
            [queue.label_studio],
            name=f"courier-{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}",
            connection=queue.redis,
            serializer="json",
            job_monitoring_interval=pace.beat_s,
            worker_ttl=pace.look_s + 15,  # RQ looks for a job 15 s less than that.
        )
        self._courier = courier
        self._pace = pace

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Tell how long the lease on a delivery lasts from now; RQ would make it the job's timeout and a minute.

        Args:
            job: The delivery.
            working_time: How long it has run.

        Returns:
            Seconds.
        """
        return self._pace.lease_s

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Make one delivery in this process, renewing its lease.

        Args:
            job: The delivery.
            queue: Where it was.

        Raises:
            StopRequested: If Redis went away under it; it comes again.
        """
        job.timeout = LONGEST_S
        execution = self.prepare_execution(job)
        try:
            with self._lease(job, execution):
                self.perform_job(job, queue, execution)
        except REDIS_ERRORS as exc:
            log.warning("redis went away under a delivery, which comes again", extra={"error": str(exc)})
            raise StopRequested from exc
        self.set_state(WorkerStatus.IDLE)

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

    def register_death(self) -> None:
        """Leave the list of workers, if Redis is there to hear it."""
        with suppress(*REDIS_ERRORS):
            super().register_death()

    def unsubscribe(self) -> None:
        """Hear commands no longer."""
        try:
            super().unsubscribe()
        except REDIS_ERRORS:
            self.pubsub_thread.stop()

    @contextmanager
    def _lease(self, job: Job, execution: Execution) -> Iterator[None]:
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._pace.beat_s):
                try:
                    self.maintain_heartbeats(job, execution)
                    self._courier.renew()
                except REDIS_ERRORS as exc:
                    log.warning("lease not renewed", extra={"error": str(exc)})

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def run(settings: Settings) -> None:
    """Deliver until SIGTERM or SIGINT.

    Args:
        settings: Where Label Studio and Redis are.

    Raises:
        StartFailed: If there is no key, or Label Studio does not accept it.
    """
    key = settings.label_studio_api_key.get_secret_value()
    if not key:
        raise StartFailed("LABEL_STUDIO_API_KEY is not set: copy a token from Account & Settings of Label Studio.")
    with JobQueue.open(settings) as queue:
        queue.ping()
        label_studio = LabelStudio(settings.label_studio_url, key)
        try:
            label_studio.check_key()
        except KeyRefused as exc:
            raise StartFailed(str(exc)) from exc
        except (LabelStudioAway, LabelStudioRefused) as exc:
            log.warning("label studio is away; deliveries wait for it", extra={"reason": str(exc)})
        serve(queue, Courier(queue, label_studio))


def serve(queue: JobQueue, courier: Courier, pace: Pace = Pace()) -> None:
    """Deliver until SIGTERM or SIGINT, whatever becomes of Redis meanwhile.

    Args:
        queue: Where the deliveries are.
        courier: Who makes them.
        pace: How soon its death is noticed.
    """

    def leave(_signum: int, _frame: FrameType | None) -> None:
        courier.leaving = True

    employ(courier)
    housekeeper = Housekeeper(queue, pace.look_s)
    housekeeper.start()
    log.info("courier ready")
    while not courier.leaving:
        try:
            CourierWorker(queue, courier, pace).work(logging_level=None)
        except StopRequested:
            pass
        except REDIS_ERRORS as exc:
            log.warning("redis is away", extra={"error": str(exc)})
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        if not courier.leaving:
            time.sleep(RECONNECT_S)
    housekeeper.stop()
    log.info("courier ends")
