"""The queue between the rooms: requests for workers, answers for the courier, and what became of them.

    submit --> lines --[gpu]--> worker --deliver--[label-studio]--> courier --> settle
                                   |                                   |
                                   +----------> record_failure <-------+

Requests travel in chunks, each of them one job of RQ (`workers.jobs`); `workers.lines` says who holds which. This
module imports no torch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self, TypeVar

from pydantic import TypeAdapter
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.results import Result
from rq.utils import as_text, now, str_to_date
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from workers import traces
from workers.contract import Answer, Chunk, PredictJob, Refusal, Reply, Training, TrainJob
from workers.errors import QueueFull, RedisAway
from workers.failures import Failure, FailureList
from workers.given_up import record
from workers.jobs import (
    DAY_S,
    GPU,
    INTERACTIVE,
    LABEL_STUDIO,
    REPLY,
    TRAIN,
    chunk_job,
    chunks_of,
    delivery_job,
    reply_id,
    reply_job,
    requests_of,
    training_job,
)
from workers.lines import GONE, Lines, Place
from workers.notices import Event, NoticeBoard
from workers.own_job import OwnJob, queue_of
from workers.rates import Rate
from workers.redis_client import connect, renaming_redis_errors
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings

__all__ = [
    "GPU",
    "INTERACTIVE",
    "LABEL_STUDIO",
    "TRAIN",
    "Event",
    "Failure",
    "JobQueue",
    "QueueFull",
    "RedisAway",
    "State",
    "connect",
]

RETRY_AFTER_S = 30
"""When to come again to a full queue, in seconds."""

ROUND_TRIP = 500
"""How many keys go to Redis in one call."""

ANSWERED, DELIVERED = Rate("answered"), Rate("delivered")
"""What the workers and the courier get done."""

State = Literal["in flight", "delivered", "failed"]
"""How far a request is."""

NEXT = 100
"""How many jobs of a queue are looked at to know the oldest; those of people go in front of older ones."""

POLL_S = 0.05
"""How often a request in flight is looked at by those who wait for it, in seconds."""

T = TypeVar("T")
_REPLY: TypeAdapter[Answer | Refusal] = TypeAdapter(Reply)

_ENQUEUE_UNLESS_IN_FLIGHT = """
-- KEYS: queue, job, what earlier attempts left behind
-- ARGV: LPUSH or RPUSH, job id, time to live or 0, then the job's fields and values
local status = redis.call('HGET', KEYS[2], 'status')
if status and status ~= 'finished' and status ~= 'failed' and status ~= 'stopped' then return 0 end
redis.call('DEL', unpack(KEYS, 2))
redis.call('HSET', KEYS[2], unpack(ARGV, 4))
if tonumber(ARGV[3]) > 0 then redis.call('EXPIRE', KEYS[2], ARGV[3]) end
redis.call(ARGV[1], KEYS[1], ARGV[2])
return 1
"""


class JobQueue(NoticeBoard):
    """The one door to Redis: every method raises `RedisAway` when nobody is behind it.

    Args:
        redis: A client, as `connect` makes it; nothing is sent yet.
        settings: For the limits.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        super().__init__(redis)
        self.settings = settings
        self.gpu = queue_of(GPU, redis)
        self.interactive = queue_of(INTERACTIVE, redis)
        self.train = queue_of(TRAIN, redis)
        self.label_studio = queue_of(LABEL_STUDIO, redis)
        self._lines = Lines(redis, self.gpu, self.label_studio, settings.answers_limit)
        self._failures = FailureList(redis, settings.failure_days * DAY_S)
        self._enqueue_unless_in_flight = redis.register_script(_ENQUEUE_UNLESS_IN_FLIGHT)

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Self]:
        """Reach the Redis of the settings, or the embedded one of this machine.

        Args:
            settings: For the address, the data directory and the limits.

        Yields:
            The queue.
        """
        if settings.redis_url:
            with connect(str(settings.redis_url)) as redis:
                yield cls(redis, settings)
        else:
            with EmbeddedRedis.attach(settings.data / "redis") as server, connect(server.url) as redis:
                yield cls(redis, settings)

    @renaming_redis_errors()
    def ping(self) -> None:
        """Ask whether Redis is there."""
        self.redis.ping()

    @renaming_redis_errors()
    def submit(self, jobs: Sequence[PredictJob], *, front: bool = False) -> int:
        """Ask for the answers to some requests; those in flight are left alone, those that failed are asked again.

        Args:
            jobs: The requests. An interactive one goes before all others, and none is refused for want of room.
            front: Whether the others go before all that wait.

        Returns:
            How many were not in flight; where there is no room (`QueueFull`) none of them was taken.
        """
        wanted: dict[int, dict[str, PredictJob]] = defaultdict(dict)
        for job in jobs:
            wanted[job.project_id][job.key] = job
        in_flight = self._lines.counts()  # First: what others submit meanwhile must not be counted twice.
        new: dict[int, list[PredictJob]] = {}
        for project_id, mine in wanted.items():
            holders = zip(mine.values(), self._holders(project_id, list(mine)), strict=True)
            new[project_id] = [job for job, holder in holders if holder in ("", GONE)]
            self._check_room(in_flight, project_id, sum(not job.interactive for job in new[project_id]))
        taken, at = 0, now()
        for unmarked in new.values():
            mine_new = [job.taken_in(at, traces.ask(job, alone=len(jobs) == 1)) for job in unmarked]
            taken += sum(self._push_interactive(job) for job in mine_new if job.interactive)
            chunks = list(chunks_of([job for job in mine_new if not job.interactive]))
            for chunk in chunks[::-1] if front else chunks:
                taken += self._send(chunk, "front" if front else "line")
        return taken

    @renaming_redis_errors()
    def check_room(self, project_id: int, count: int) -> None:
        """Ask whether so many more requests would be taken now.

        Args:
            project_id: Their project.
            count: How many; if they would be too many, for the project or in all, this raises `QueueFull`.
        """
        self._check_room(self._lines.counts(), project_id, count)

    @renaming_redis_errors()
    def feed(self) -> None:
        """Let chunks that wait in their projects' lines go to the workers; any worker that is about to look does it."""
        self._lines.feed()

    @renaming_redis_errors()
    def somebody_waits(self) -> bool:
        """Say whether a person's request is the next job that a GPU worker would take.

        Returns:
            Whether it is.
        """
        first = self.redis.lindex(self.gpu.key, 0)
        return first is not None and as_text(first).startswith(REPLY)

    @renaming_redis_errors()
    def still_held(self, chunk: Chunk, chunk_id: str) -> list[PredictJob]:
        """Say which requests of a chunk are still its own to answer.

        Args:
            chunk: The chunk.
            chunk_id: Its job.

        Returns:
            Those that were neither answered nor refused, nor put into another chunk.
        """
        return self._lines.still_held(chunk.requests, chunk_id)

    @renaming_redis_errors()
    def put_back(
        self, jobs: Sequence[PredictJob], chunk_id: str, place: Place, *, tries: int = 0, in_s: float = 0
    ) -> None:
        """Put requests that a chunk holds into a new one.

        Args:
            jobs: The requests; at least one.
            chunk_id: The job of the chunk that holds them.
            place: Where they wait.
            tries: How often their image was away.
            in_s: When their time comes, in seconds from now; for the place "later".
        """
        chunk = Chunk(requests=tuple(jobs), tries=tries)
        self._send(chunk, place, former=chunk_id, due=int(time.time() + in_s))

    @renaming_redis_errors()
    def deliver(self, answer: Answer) -> None:
        """Hand an answer to the courier, once.

        Args:
            answer: What was found.
        """
        job = delivery_job(self.label_studio, answer, self.settings)
        with self.redis.pipeline() as pipe:
            self._push(pipe, self.label_studio, job)
            self._lines.pass_on(pipe, answer.job.project_id, answer.job.key)
            ANSWERED.count(pipe)
            pipe.execute()

    @renaming_redis_errors()
    def ask_training(self, job: TrainJob) -> bool:
        """Ask a trainer to teach a project's champion further.

        Args:
            job: Which project, and why.

        Returns:
            Whether it was asked now; not while one of the project is on its way.
        """
        rq_job = training_job(self.train, job, self.settings)
        with self.redis.pipeline(transaction=False) as pipe:
            self._push(pipe, self.train, rq_job)
            asked = bool(pipe.execute()[0])
        if asked and rq_job.get_status(refresh=True) == JobStatus.QUEUED:  # Else the trainer has said more already.
            at = now()
            self.keep_training(Training(project_id=job.project_id, stage="waiting", why=job.why, began_at=at, at=at))
        return asked

    @renaming_redis_errors()
    def settle(self, job: PredictJob) -> bool:
        """Say that a request's prediction is where it belongs.

        Args:
            job: The request.

        Returns:
            Whether it was on its way until now; not where a delivery was repeated.
        """
        with self.redis.pipeline() as pipe:
            self._lines.release(pipe, job.project_id, job.key)
            self._failures.drop([job.key], pipe)
            DELIVERED.count(pipe)
            return bool(pipe.execute()[0])

    @renaming_redis_errors()
    def wait_until_settled(self, project_id: int, keys: Sequence[str], timeout_s: float) -> bool:
        """Wait until requests are delivered, or have failed.

        Args:
            project_id: Their project.
            keys: Their keys.
            timeout_s: How long to wait at most.

        Returns:
            Whether all of them are.
        """
        deadline = time.monotonic() + timeout_s
        while "in flight" in self.states(project_id, keys):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    @renaming_redis_errors()
    def states(self, project_id: int, keys: Sequence[str]) -> list[State]:
        """Say how far requests are that were submitted before.

        Args:
            project_id: Their project.
            keys: Their keys.

        Returns:
            The state of each, in their order.
        """
        holders = self._holders(project_id, keys)
        listed = self._failures.listed(keys)  # Afterwards: whoever lets go of a request lists it at the same moment.
        # RQ says that a job failed a moment before its requests are on the list: nobody holds them then.
        return [
            "in flight" if holder not in ("", GONE) else "failed" if failed or holder == GONE else "delivered"
            for holder, failed in zip(holders, listed, strict=True)
        ]

    @renaming_redis_errors()
    def wait_for_reply(self, job: PredictJob, timeout_s: float) -> Answer | Refusal | None:
        """Wait for the reply to an interactive request.

        Args:
            job: The request, submitted before.
            timeout_s: How long to wait at most.

        Returns:
            The reply, or None when it did not come in time; a request that still waits is then taken back.
        """
        rq_job = OwnJob(reply_id(job.key), connection=self.redis, serializer="json")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            result = rq_job.latest_result(timeout=1)
            if result is None:
                continue
            if result.type is Result.Type.SUCCESSFUL:
                return _REPLY.validate_json(result.return_value)
            return Refusal(job=job, move="ours", reason=f"Something of ours broke; the log names it {rq_job.id}.")
        if self.gpu.remove(rq_job.id) or self.interactive.remove(rq_job.id):
            self.redis.delete(rq_job.key)
        return None

    @renaming_redis_errors()
    def record_failure(self, failure: Failure) -> None:
        """Put a failure on the list that people see; those who wait for the request wait no longer.

        Args:
            failure: What went wrong.
        """
        record(self.redis, self._failures, failure)

    @renaming_redis_errors()
    def failures(self, project_id: int | None = None, *, most: int | None = None) -> list[Failure]:
        """List what went wrong for good.

        Args:
            project_id: Of this project only.
            most: Only among so many of the newest; None for all.

        Returns:
            The failures, newest first.
        """
        return [failure for failure in self._failures.newest(most) if project_id in (None, failure.project_id)]

    @renaming_redis_errors()
    def clear_failures(self, keys: Sequence[str]) -> None:
        """Take failures off the list; keys of which none is there are no error.

        Args:
            keys: The requests' keys.
        """
        for some in _parts(keys):
            self._failures.drop(some)

    @renaming_redis_errors()
    def projects(self) -> dict[int, int]:
        """Count the requests in flight of each project.

        Returns:
            How many each has that has any.
        """
        return self._lines.counts()

    @renaming_redis_errors()
    def rates(self) -> dict[str, float]:
        """Say how fast it goes, over the last minute.

        Returns:
            Requests answered_per_s by the workers, and delivered_per_s by the couriers.
        """
        return {"answered_per_s": ANSWERED.per_s(self.redis), "delivered_per_s": DELIVERED.per_s(self.redis)}

    @renaming_redis_errors()
    def ages(self) -> dict[str, float]:
        """Say how long ago the oldest of what is next was asked for; in a queue that works off what it has, not long.

        Returns:
            Seconds by the queue's name, 0 where nothing waits; that of `gpu` looks into the projects' lines too.
        """
        at = now()
        ages = {}
        for queue in (self.interactive, self.gpu, self.label_studio, self.train):
            waiting = queue.get_job_ids(0, NEXT) + (self._lines.heads() if queue is self.gpu else [])
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in waiting:
                    pipe.hget(Job.key_for(job_id), "created_at")
                asked = [str_to_date(text) for text in pipe.execute() if text]
            ages[queue.name] = max((max(0.0, (at - one).total_seconds()) for one in asked if one), default=0.0)
        return ages

    @renaming_redis_errors()
    def counts(self) -> dict[str, int]:
        """Count the requests in each state, without touching any.

        Returns:
            How many are waiting, running, to_deliver and failed.
        """
        in_flight = sum(self._lines.counts().values())
        started = self.label_studio.started_job_registry
        to_deliver = self.label_studio.count + started.get_job_count(cleanup=False)
        to_deliver += ScheduledJobRegistry(queue=self.label_studio).get_job_count(cleanup=False)
        running = sum(self._running(job_id) for job_id in self.gpu.started_job_registry.get_job_ids(cleanup=False))
        return {
            # Counted one after the other: an answer may be on its way from one number to the next.
            "waiting": max(0, in_flight - running - to_deliver),
            "running": running,
            "to_deliver": to_deliver,
            "failed": self._failures.count(),
        }

    def _check_room(self, in_flight: dict[int, int], project_id: int, count: int) -> None:
        for whose, there, limit, setting in (
            (f"of project {project_id} ", in_flight.get(project_id, 0), self.settings.project_limit, "PROJECT_LIMIT"),
            ("", sum(in_flight.values()), self.settings.queue_limit, "QUEUE_LIMIT"),
        ):
            if count and there + count > limit:
                raise QueueFull(
                    f"{there} requests {whose}are on their way, and {count} more would pass the limit of {limit} "
                    f"(RSREFSEG_{setting}).",
                    RETRY_AFTER_S,
                )

    def _running(self, job_id: str) -> int:
        job = OwnJob.fetch_many([job_id], connection=self.redis, serializer="json")[0]
        if job is None:
            return 0
        _, requests = requests_of(job)
        interactive = bool(requests) and requests[0].interactive
        return 1 if interactive else len(self._lines.still_held(requests, job.id))

    def _holders(self, project_id: int, keys: Sequence[str]) -> list[str]:
        return [holder for some in _parts(keys) for holder in self._lines.holders(project_id, some)]

    def _send(self, chunk: Chunk, place: Place, *, former: str = "", due: int = 0) -> int:
        job = chunk_job(self.gpu, chunk, self.settings, later=place == "later")
        keys = [request.key for request in chunk.requests]
        return self._lines.claim(job, chunk.project_id, keys, place, former=former, due=due)

    def _push_interactive(self, request: PredictJob) -> int:
        served = self.redis.scard(WORKERS_BY_QUEUE_KEY % INTERACTIVE)
        queue = self.interactive if served else self.gpu
        job = reply_job(queue, request, self.settings)
        with self.redis.pipeline(transaction=False) as pipe:
            self._push(pipe, queue, job, leftovers=[Result.get_key(job.id)], front=True)
            return int(pipe.execute()[0])

    def _push(
        self, pipe: Pipeline, queue: Queue, job: Job, *, leftovers: Sequence[str] = (), front: bool = False
    ) -> None:
        job.enqueued_at = now()
        fields = [part for field in job.to_dict().items() for part in field]
        self._enqueue_unless_in_flight(
            keys=[queue.key, job.key, *leftovers],
            args=["LPUSH" if front else "RPUSH", job.id, job.ttl or 0, *fields],
            client=pipe,
        )


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + ROUND_TRIP] for start in range(0, len(items), ROUND_TRIP))
