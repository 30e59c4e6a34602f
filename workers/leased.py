"""RQ's SimpleWorker, which keeps in memory what it loaded, with what it lacks for long jobs; imports no torch.

While a job runs a thread renews its lease, so the job of a worker that died comes again soon. SIGTERM lets the job in
hand end. A Redis that goes away is waited for.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.worker import WorkerStatus
from rq.worker_registration import register

from workers import progress
from workers.own_job import OwnJob
from workers.redis_client import REDIS_ERRORS

log = logging.getLogger(__name__)

DEVICE = "device"
"""The field of RQ's record of a worker that says what its model runs on."""

RECONNECT_S = 1.0
"""Pause before a worker that lost Redis looks again, in seconds."""

DEQUEUE_S = 15
"""How much less than its own time to live RQ waits for a job, in seconds."""

HUNG = 70
"""Exit code of a worker that gave itself up because its job did not end, not even by its timeout."""


@dataclass(frozen=True)
class Pace:
    """How soon the death of a worker is noticed, in seconds."""

    beat_s: int = 5
    """Between two renewals of the lease on the job in hand."""
    grace_s: int = 10
    """How long a lease outlives its last renewal; above the longest call that holds the GIL."""
    round_s: int = 5
    """Between two looks, of an idle worker, for jobs that lost theirs."""

    @property
    def worst_s(self) -> int:
        """How long a job may lie with a dead worker before another one sees it."""
        return self.beat_s + self.grace_s + 3 * self.round_s


class Stop:
    """Whether somebody asked the process to end; a plain flag, since a handler must not take a lock."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and the end of the supervisor's line for the asking."""
        for number in (signal.SIGTERM, signal.SIGINT, progress.LEAVE):
            signal.signal(number, self._ask)

    def _ask(self, _signum: int, _frame: FrameType | None) -> None:
        self.asked = True


class LeasedWorker(SimpleWorker):  # type: ignore[misc]  # rq is not followed
    """One process that takes one job after the other from one queue.

    Args:
        queue: Where the jobs are.
        stop: Set when somebody asks the process to end.
        pace: How soon the death of a worker is noticed.
        prefix: What the worker's name begins with.
    """

    max_connection_wait_time = 5.0
    log_result_lifespan = False

    def __init__(self, queue: Queue, stop: Stop, pace: Pace, prefix: str = "") -> None:
        super().__init__(
            [queue],
            name=f"{prefix}{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}",
            connection=queue.connection,
            serializer="json",
            job_class=OwnJob,
            job_monitoring_interval=pace.beat_s,
            maintenance_interval=pace.round_s,
            worker_ttl=pace.round_s + DEQUEUE_S,
        )
        self._stop = stop
        self._pace = pace

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives; after Redis forgot everything also what it is.

        Args:
            timeout: How long that holds, in seconds.
            pipeline: To send it with.
        """
        super().heartbeat(timeout, pipeline)
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.hset(self.key, mapping=self.serialize() | {"state": self.get_state()} | self.described())
            register(self)

    def described(self) -> dict[str, str]:
        """Say what else people want to know of this worker.

        Returns:
            Fields of RQ's record of it.
        """
        return {}

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Tell how long the lease on a job lasts from now; RQ would make it the job's timeout and a minute.

        Args:
            job: The job.
            working_time: How long it has run.

        Returns:
            Seconds.
        """
        return self._pace.beat_s + self._pace.grace_s

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one job in this process, renewing its lease.

        Args:
            job: The job.
            queue: Where it was.

        Raises:
            StopRequested: If Redis went away under the job; this ends RQ's loop, and `serve` begins a new one.
        """
        progress.busy()
        try:
            execution = self.prepare_execution(job)
            with self._lease(job, execution):
                self.perform_job(job, queue, execution)
        except REDIS_ERRORS as exc:
            log.warning("redis went away under a job, which comes again", extra={"error": str(exc)})
            raise StopRequested from exc
        finally:
            progress.idle()
        self.set_state(WorkerStatus.IDLE)

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: object, execution: Execution) -> None:
        """Write down that a job ended well, unless it is another's by now.

        Args:
            job: The job.
            queue: Where it was.
            started_job_registry: RQ's list of jobs that are at work.
            execution: This run of it.
        """
        if self._still_ours(job, execution):
            super().handle_job_success(job, queue, started_job_registry, execution)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: object = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Write down that a job failed, unless it is another's by now.

        Args:
            job: The job.
            queue: Where it was.
            started_job_registry: RQ's list of jobs that are at work.
            exc_string: What was raised.
            execution: This run of it.
        """
        if execution is None or self._still_ours(job, execution):
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def _still_ours(self, job: Job, execution: Execution) -> bool:
        # A process that was stopped for longer than its lease wakes over a job that another does, or has done.
        if self.connection.zscore(job.started_job_registry.key, execution.composite_key) is not None:
            return True
        self.executions.pop(execution.id, None)
        log.warning("the lease had run out, so the job is left to another", extra={"lost_job": job.id})
        return False

    def renew(self, job: Job, execution: Execution) -> None:
        """Say that the job in hand still runs.

        Args:
            job: The job.
            execution: This run of it.
        """
        self.maintain_heartbeats(job, execution)

    @contextmanager
    def _lease(self, job: Job, execution: Execution) -> Iterator[None]:
        ended = threading.Event()
        last = time.monotonic() + float(job.timeout or 0) + self._pace.grace_s

        def keep_renewing() -> None:
            while not ended.wait(self._pace.beat_s):
                if time.monotonic() > last:
                    log.critical("a job does not end, so the worker does", extra={"hung_job": job.id})
                    os._exit(HUNG)  # The alarm of the timeout waits for a call that never returns.
                try:
                    self.renew(job, execution)
                except REDIS_ERRORS as exc:
                    log.warning("lease not renewed", extra={"error": str(exc)})

        thread = threading.Thread(target=keep_renewing, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """End after the job in hand.

        Args:
            signum: SIGTERM or SIGINT.
            frame: Where the process was.
        """
        self._stop.asked = True
        super().request_stop(signum, frame)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        signal.signal(progress.LEAVE, self._leave)

    def _leave(self, signum: int, frame: FrameType | None) -> None:
        if not self._stop.asked:  # Systemd asked already, and this is no second time.
            self.request_stop(signum, frame)

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


def is_of(name: str, host: str) -> bool:
    """Say whether a process that takes jobs runs on a host.

    Args:
        name: Its name, as `LeasedWorker` makes it.
        host: The host's name.

    Returns:
        Whether it does.
    """
    return re.fullmatch(rf"(courier-)?{re.escape(host)}-\d+-[0-9a-f]{{4}}", name) is not None


def serve(make_worker: Callable[[], LeasedWorker], stop: Stop) -> None:
    """Take jobs until SIGTERM or SIGINT, whatever becomes of Redis meanwhile.

    Args:
        make_worker: Makes a new worker, whenever the former one lost Redis.
        stop: Set when somebody asks the process to end.
    """
    stop.listen()
    while not stop.asked:
        progress.idle()
        try:
            make_worker().work(logging_level=None)
        except StopRequested:
            log.info("stopped between two jobs")
        except REDIS_ERRORS as exc:
            log.warning("redis is away", extra={"error": str(exc)})
        stop.listen()  # RQ's own handlers belong to a worker that is gone.
        until = time.monotonic() + RECONNECT_S
        while not stop.asked and time.monotonic() < until:
            time.sleep(0.1)
    log.info("worker ends")
