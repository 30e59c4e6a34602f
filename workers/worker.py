"""The warm worker: RQ's SimpleWorker, which keeps the model in memory, with what it lacks for long jobs.

While a job runs a thread renews its lease, so the job of a worker that died comes again within `Pace.worst_s`. A person
can stop a job, SIGTERM lets it end, and a Redis that goes away or forgets everything is waited for.
"""

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
from typing import TYPE_CHECKING

import numpy as np
from redis import Redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import clean_registries
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry, register

from workers.bench import Bench, lay_out
from workers.errors import JobStopped, RedisAway
from workers.images import ImageFetcher
from workers.queue import JobQueue
from workers.redis_client import REDIS_ERRORS
from workers.settings import Settings

if TYPE_CHECKING:
    from rsrefseg import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How soon the death of a worker is noticed, in seconds."""

    beat_s: int = 5
    """Between two renewals of the lease on the job in hand."""
    grace_s: int = 15
    """How long a lease outlives its last renewal; above the longest call that holds the GIL."""
    round_s: int = 5
    """Between two looks, of an idle worker, for jobs that lost theirs."""

    @property
    def worst_s(self) -> int:
        """How long a job may lie with a dead worker before another one sees it."""
        return self.beat_s + self.grace_s + 3 * self.round_s


RECONNECT_S = 1.0
"""Pause before a worker that lost Redis looks again, in seconds."""

HUNG = 70
"""Exit code of a worker that gave itself up because its job did not end, not even by its timeout."""


class WarmWorker(SimpleWorker):  # type: ignore[misc]  # rq is not followed
    """One process with one model, which takes one job after the other.

    Args:
        queue: Where the jobs are.
        model_version: What this worker serves.
        stop: Set when somebody asks the process to end.
        pace: How soon the death of a worker is noticed.
    """

    max_connection_wait_time = 5.0
    log_result_lifespan = False

    def __init__(self, queue: JobQueue, model_version: str, stop: threading.Event, pace: Pace) -> None:
        super().__init__(
            [queue.gpu],
            name=f"{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}",
            connection=queue.redis,
            serializer="json",
            job_monitoring_interval=pace.beat_s,
            maintenance_interval=pace.round_s,
            worker_ttl=pace.round_s + 15,  # RQ waits for a job 15 s less than that
        )
        self._queue = queue
        self._model_version = model_version
        self._stop = stop
        self._pace = pace
        self._stoppable = False

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
        signal.signal(signal.SIGUSR1, self._on_stop)
        execution = self.prepare_execution(job)
        with self._lease(job, execution):
            self._stoppable = True
            try:
                self.perform_job(job, queue, execution)
            except JobStopped:
                log.info("stopped as the job ended")
            except REDIS_ERRORS as exc:
                log.warning("redis went away under a job, which comes again", extra={"error": str(exc)})
                raise StopRequested from exc
            finally:
                self._stoppable = False
        self.set_state(WorkerStatus.IDLE)

    @contextmanager
    def _lease(self, job: Job, execution: Execution) -> Iterator[None]:
        ended = threading.Event()
        last = time.monotonic() + float(job.timeout or 0) + self._pace.grace_s

        def renew() -> None:
            while not ended.wait(self._pace.beat_s):
                if time.monotonic() > last:
                    log.critical("a job does not end, so the worker does", extra={"hung_job": job.id})
                    os._exit(HUNG)  # The alarm of the timeout waits for a call that never returns.
                try:
                    self.maintain_heartbeats(job, execution)
                except REDIS_ERRORS as exc:
                    log.warning("lease not renewed", extra={"error": str(exc)})

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def kill_horse(self, sig: signal.Signals = signal.SIGUSR1) -> None:
        """Stop the job in hand; RQ calls this on the thread that hears commands.

        Args:
            sig: Not used: there is no other process to send it to.
        """
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _on_stop(self, _signum: int, _frame: FrameType | None) -> None:
        if self._stoppable:
            self._stoppable = False
            raise JobStopped

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """End after the job in hand.

        Args:
            signum: SIGTERM or SIGINT.
            frame: Where the process was.
        """
        self._stop.set()
        super().request_stop(signum, frame)

    def register_birth(self) -> None:
        """Join the list of workers, and say which model version is served."""
        super().register_birth()
        self._queue.announce(self._model_version)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives; after Redis forgot everything also what it is.

        Args:
            timeout: How long that holds, in seconds.
            pipeline: To send it with.
        """
        super().heartbeat(timeout, pipeline)
        if pipeline is None:
            if not self.connection.hexists(self.key, "birth"):
                self.connection.hset(self.key, mapping=self.serialize() | {"state": self.get_state()})
                register(self)
            with suppress(RedisAway):
                self._queue.announce(self._model_version, again=True)

    def run_maintenance_tasks(self) -> None:
        """Look for jobs whose worker died, unless another worker just did.

        RQ's own lock would keep everybody from looking for 15 minutes after a worker died while it looked.
        """
        for queue in self.queues:
            if self.connection.set(queue.registry_cleaning_key, self.name, nx=True, ex=max(1, self._pace.round_s - 1)):
                clean_registries(queue, self._exc_handlers)
                clean_worker_registry(queue)
                _Popped(queue.key, queue.connection, self._pace.round_s / 2).cleanup(self, queue)
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


class _Popped(IntermediateQueue):  # type: ignore[misc]
    """Jobs between queue and start, where a worker may die as well: what is there at two looks was left there.

    RQ would leave it there for a minute.
    """

    def __init__(self, queue_key: str, connection: Redis, least_s: float) -> None:
        super().__init__(queue_key, connection)
        self._least_s = least_s

    def should_be_cleaned_up(self, job_id: str) -> bool:
        seen_at = self.get_first_seen(job_id)
        return seen_at is not None and (now() - seen_at).total_seconds() > self._least_s


def load(settings: Settings, device: str) -> Predictor:
    """Load the model of the settings and run it once, so that the first job finds it warm.

    Args:
        settings: For the preset or the checkpoint.
        device: Where it runs.

    Returns:
        The model.
    """
    from rsrefseg import Predictor  # Imports torch, which only a running worker needs.

    started = time.monotonic()
    if settings.checkpoint:
        predictor = Predictor.from_checkpoint(settings.checkpoint, device=device)
    else:
        predictor = Predictor.from_preset(settings.preset, device=device)
    predictor.segment(predictor.encode(np.zeros((64, 64, 3), np.uint8)), ["anything"])
    seconds = round(time.monotonic() - started, 2)
    log.info("model warm", extra={"model_version": predictor.version, "device": device, "seconds": seconds})
    return predictor


def serve(queue: JobQueue, predictor: Predictor, pace: Pace | None = None) -> None:
    """Take jobs until SIGTERM or SIGINT, whatever becomes of Redis meanwhile.

    Args:
        queue: Where the jobs are.
        predictor: The model, warm.
        pace: How soon the death of a worker is noticed.
    """
    lay_out(Bench(queue, ImageFetcher(queue.settings), predictor))
    stop = threading.Event()
    _listen(stop)
    pause_s = 0.0
    while not stop.wait(pause_s):
        try:
            WarmWorker(queue, predictor.version, stop, pace or Pace()).work(logging_level=None)
        except StopRequested:
            log.info("stopped between two jobs")
        except REDIS_ERRORS as exc:
            log.warning("redis is away", extra={"error": str(exc)})
        finally:
            _listen(stop)  # RQ's own handlers belong to a worker that is gone.
        pause_s = RECONNECT_S
    log.info("worker ends")


def _listen(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signum, _frame: stop.set())
