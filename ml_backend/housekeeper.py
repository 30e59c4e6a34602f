"""What has to go on while the courier waits for Label Studio: delayed jobs, and the jobs of dead workers.

It runs beside the courier on its own thread, for all queues, so jobs come back even when no GPU worker is alive.
"""

from __future__ import annotations

import logging
import threading
import time

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.scheduler import RQScheduler

from workers.leased import DEQUEUE_S
from workers.own_job import OwnJob
from workers.queue import JobQueue
from workers.upkeep import bring_back

log = logging.getLogger(__name__)

TICK_S = 1
"""How often delayed jobs are looked at, in seconds."""


class Housekeeper(threading.Thread):
    """Sends delayed jobs on their way, and brings back those whose worker died.

    Args:
        queue: Whose jobs.
        round_s: How often the jobs of dead workers are looked for.
    """

    def __init__(self, queue: JobQueue, round_s: int) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self._round_s = round_s
        self._queues: list[Queue] = [queue.gpu, queue.interactive, queue.train, queue.label_studio]
        # RQ would start it as a process of its own, which outlives a courier that is killed.
        self._scheduler = RQScheduler(self._queues, connection=queue.redis, serializer="json", interval=TICK_S)
        # Never works: it lends its bookkeeping to the cleaning of intermediate queues.
        self._worker = SimpleWorker(
            self._queues,
            connection=queue.redis,
            serializer="json",
            job_class=OwnJob,
            prepare_for_work=False,
            worker_ttl=round_s + DEQUEUE_S,
        )
        self._ended = threading.Event()

    def run(self) -> None:
        """Keep house until `stop`, whatever becomes of Redis meanwhile."""
        away = False
        next_round = 0.0
        while not self._ended.wait(TICK_S):
            try:
                # Each time, so that the queues of a courier that died are taken over as soon as its locks run out.
                self._scheduler.acquire_locks()
                self._scheduler.enqueue_scheduled_jobs()
                if time.monotonic() >= next_round:
                    next_round = time.monotonic() + self._round_s
                    for queue in self._queues:
                        bring_back(queue, self._worker, self._round_s)
                away = False
            except RedisError as exc:
                if not away:
                    log.warning("redis is away", extra={"error": str(exc)})
                away = True

    def stop(self) -> None:
        """End the thread, and let another courier's take over at once."""
        self._ended.set()
        self.join()
        try:
            self._scheduler.release_locks()
        except RedisError as exc:
            log.warning("locks not released", extra={"error": str(exc)})
