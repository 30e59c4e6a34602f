"""Bringing back the jobs of workers that died: idle workers do it, and the housekeeper for all queues."""

from __future__ import annotations

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker_registration import clean_worker_registry

from workers.own_job import OwnJob


def bring_back(queue: Queue, looker: BaseWorker, round_s: int) -> None:
    """Look for jobs whose worker died, unless somebody else just did.

    RQ's own lock would keep everybody from looking for 15 minutes after a worker died while it looked.

    Args:
        queue: Whose jobs.
        looker: On behalf of whom.
        round_s: How often somebody looks, in seconds.
    """
    if not queue.connection.set(queue.registry_cleaning_key, looker.name, nx=True, ex=max(1, round_s - 1)):
        return
    # RQ's usual alarm for failure callbacks is a signal, which only the main thread can set.
    StartedJobRegistry(queue=queue, job_class=OwnJob, death_penalty_class=TimerDeathPenalty).cleanup()
    FinishedJobRegistry(queue=queue, job_class=OwnJob).cleanup()
    FailedJobRegistry(queue=queue, job_class=OwnJob).cleanup()
    clean_worker_registry(queue)
    _Popped(queue.key, queue.connection, round_s / 2).cleanup(looker, queue)


class _Popped(IntermediateQueue):  # type: ignore[misc]  # rq is not followed
    """Jobs between queue and start, where a worker may die as well: what is there at two looks was left there.

    RQ would leave it there for a minute.
    """

    def __init__(self, queue_key: str, connection: Redis, least_s: float) -> None:
        super().__init__(queue_key, connection)
        self._least_s = least_s

    def should_be_cleaned_up(self, job_id: str) -> bool:
        seen_at = self.get_first_seen(job_id)
        return seen_at is not None and (now() - seen_at).total_seconds() > self._least_s
