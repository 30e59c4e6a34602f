"""The warm worker: the model stays in memory from job to job.

It says which model version it serves, brings back the jobs of workers that died, and lets a person stop the job in
hand.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.utils import now

from workers import leased
from workers.ahead import ImagesAhead
from workers.bench import BENCH, Bench, Model
from workers.champions import Champions
from workers.desk import DESK, Desk
from workers.device_use import DeviceUse
from workers.errors import Interrupted, JobStopped, RedisAway
from workers.images import ImageFetcher
from workers.leased import DEVICE, LeasedWorker, Pace, Stop
from workers.queue import GPU, INTERACTIVE, JobQueue
from workers.registry import Registry
from workers.settings import Settings
from workers.thumbnails import Thumbnails
from workers.upkeep import bring_back

if TYPE_CHECKING:
    from rsrefseg import Predictor
    from rsrefseg.teaching import Course

log = logging.getLogger(__name__)


class DeviceWorker(LeasedWorker):
    """One process with one device, which takes one job after the other.

    Args:
        source: Where the jobs are.
        device: What it computes on, for people.
        stop: Set when somebody asks the process to end.
        pace: How soon the death of a worker is noticed.
        use: What it takes of the device.
    """

    def __init__(self, source: Queue, device: str, stop: Stop, pace: Pace, use: DeviceUse) -> None:
        super().__init__(source, stop, pace)
        self._device = device
        self._use = use
        self._stoppable = False

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run one job such that a person can stop it.

        Args:
            job: The job.
            queue: Where it was.
            execution: This run of it.

        Returns:
            Whether it succeeded.
        """
        signal.signal(signal.SIGUSR1, self._on_stop)
        self._stoppable = True
        try:
            return bool(super().perform_job(job, queue, execution))
        except JobStopped:
            log.info("stopped as the job ended")
            return False
        finally:
            self._stoppable = False
            self._use.note()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log what a job raised, unless it was that this process is to leave.

        Args:
            job: The job.
            exc_info: As `sys.exc_info` has it.
        """
        if not isinstance(exc_info[1], Interrupted):
            super().handle_exception(job, *exc_info)

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

    def register_birth(self) -> None:
        """Join the list of workers, and say what it computes on."""
        super().register_birth()
        self.connection.hset(self.key, mapping=self.described())

    def described(self) -> dict[str, str]:
        """Say what it computes on.

        Returns:
            Fields of RQ's record of it.
        """
        return {DEVICE: self._device}

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives, and what it takes of its device.

        Args:
            timeout: How long that holds, in seconds.
            pipeline: To send it with.
        """
        super().heartbeat(timeout, pipeline)
        (self.connection if pipeline is None else pipeline).hset(self.key, mapping=self._use.note())

    def run_maintenance_tasks(self) -> None:
        """Look for jobs whose worker died."""
        for queue in self.queues:
            bring_back(queue, self, self._pace.round_s)
        self.last_cleaned_at = now()


class WarmWorker(DeviceWorker):
    """One with a model in memory, which says which version that is and lets the projects take turns.

    Args:
        queue: Where the requests are.
        source: Which of its lists this worker takes jobs from.
        model_version: What this worker serves.
        device: What the model runs on, for people.
        stop: Set when somebody asks the process to end.
        pace: How soon the death of a worker is noticed.
        use: What the model takes.
    """

    def __init__(
        self,
        queue: JobQueue,
        source: Queue,
        model_version: str,
        device: str,
        stop: Stop,
        pace: Pace,
        use: DeviceUse,
    ) -> None:
        super().__init__(source, device, stop, pace, use)
        self._queue = queue
        self._model_version = model_version

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job, after those that wait in their projects' lines were given their turn.

        Args:
            timeout: How long to wait at a time, in seconds.
            max_idle_time: How long to wait in all.

        Returns:
            The job and its queue.
        """
        with suppress(RedisAway):
            self._queue.feed()
        found: tuple[Job, Queue] | None = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        return found

    def register_birth(self) -> None:
        """Join the list of workers, and say which version is served."""
        super().register_birth()
        self._queue.announce(self._model_version)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives; after Redis forgot everything also which version is served.

        Args:
            timeout: How long that holds, in seconds.
            pipeline: To send it with.
        """
        super().heartbeat(timeout, pipeline)
        if pipeline is None:
            with suppress(RedisAway):
                self._queue.announce(self._model_version, again=True)

    def run_maintenance_tasks(self) -> None:
        """Look for jobs whose worker died, and whether delivered answers made room for more."""
        with suppress(RedisAway):
            self._queue.feed()
        super().run_maintenance_tasks()


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
    dtype, cache_bytes = settings.dtype, settings.cache_bytes
    if settings.checkpoint:
        foundation = settings.data / "foundation"
        predictor = Predictor.from_checkpoint(
            settings.checkpoint, device, foundation, dtype=dtype, cache_bytes=cache_bytes
        )
    else:
        predictor = Predictor.from_preset(settings.preset, device, dtype=dtype, cache_bytes=cache_bytes)
    predictor.segment(predictor.encode(np.zeros((64, 64, 3), np.uint8)), ["anything"])
    seconds = round(time.monotonic() - started, 2)
    log.info("model warm", extra={"model_version": predictor.version, "device": device, "seconds": seconds})
    return predictor


def serve(
    queue: JobQueue,
    predictor: Model,
    pace: Pace | None = None,
    *,
    device: str = "cpu",
    serves: str = GPU,
    batch_images: int = 1,
) -> None:
    """Take jobs until SIGTERM or SIGINT, whatever becomes of Redis meanwhile.

    Args:
        queue: Where the jobs are.
        predictor: The model, warm; projects' champions hang over it.
        pace: How soon the death of a worker is noticed.
        device: What the model runs on, for people.
        serves: Which jobs to take: `gpu`, or `interactive` for those alone that a person waits for.
        batch_images: How many images are encoded at once.
    """
    source = queue.interactive if serves == INTERACTIVE else queue.gpu
    stop = Stop()
    settings = queue.settings
    champions = Champions(queue, Registry(settings.data), predictor, settings.versions_kept)
    pictures = Thumbnails(queue.redis, settings.thumbnails)
    images = ImagesAhead(ImageFetcher(settings))
    BENCH.lay_out(Bench(queue, images, champions, stop, batch_images, thumbnails=pictures))
    use = DeviceUse(predictor)
    use.note()
    leased.serve(lambda: WarmWorker(queue, source, predictor.version, device, stop, pace or Pace(), use), stop)


def serve_training(
    queue: JobQueue,
    pace: Pace | None = None,
    *,
    device: str = "cpu",
    torch_device: str = "cpu",
    course: Course | None = None,
) -> None:
    """Take training jobs until SIGTERM or SIGINT; each loads what it trains.

    Args:
        queue: Where the jobs are.
        pace: How soon the death of a worker is noticed.
        device: What they train on, for people.
        torch_device: The same, as torch calls it.
        course: How corrections teach; None for the course that is best known.
    """
    stop = Stop()
    DESK.lay_out(Desk(queue, stop, torch_device, course))
    use = DeviceUse()
    use.note()
    leased.serve(lambda: DeviceWorker(queue.train, device, stop, pace or Pace(), use), stop)
