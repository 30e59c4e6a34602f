"""The queue between the rooms: requests for workers, answers for the courier, and what became of them.

    submit --[gpu]--> worker: predict --[label-studio]--> courier: deliver --> settle
                         |                                    |
                         +---------> record_failure <---------+

A request is in flight for as long as its predict job or its deliver job exists and has not ended; the worker hands an
answer over before its own job ends, so one of the two always does. This module imports no torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Literal, Self, TypeVar

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from redis import Redis
from redis.client import Pipeline
from rq import Callback, Queue, Retry
from rq.exceptions import AbandonedJobError
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.results import Result
from rq.utils import as_text, now

from workers.contract import Answer, PredictJob, Refusal, Reply, Wire
from workers.errors import JobStopped, Move, QueueFull, RedisAway
from workers.failures import Failure, FailureList, Stage
from workers.redis_client import connect, renaming_redis_errors
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings

__all__ = [
    "GPU",
    "LABEL_STUDIO",
    "Event",
    "Failure",
    "JobQueue",
    "QueueFull",
    "RedisAway",
    "State",
    "connect",
]

log = logging.getLogger(__name__)

GPU = "gpu"
"""The queue that workers with a model serve."""

LABEL_STUDIO = "label-studio"
"""The queue that couriers serve."""

WORKER_DEATHS = 3
"""How many workers may die over one request before it is given up."""

DELIVER_BACKOFF_S = [5, 15, 60, 300] + [600] * 430
"""Pauses between attempts to deliver an answer, in seconds: three days in all, so that a weekend loses nothing."""

REPLY_TTL_S = 60
"""How long an interactive reply is kept for whoever waits for it, in seconds."""

DONE_TTL_S = 1
"""How long a job that is done stays, in seconds; at 0 RQ 3.0 fails every job of which an execution expired before."""

RETRY_AFTER_S = 30
"""When to come again to a full queue, in seconds."""

EVENTS_KEPT = 100_000
"""How many webhook events are kept; beyond that the oldest go."""

CHUNK = 500
"""How many requests go to Redis in one round trip."""

DAY_S = 24 * 3600

State = Literal["in flight", "delivered", "failed"]
"""How far a request is."""

POLL_S = 0.05
"""How often a request in flight is looked at by those who wait for it, in seconds."""

PREFIX = "rsrefseg:"
_VERSIONS, _EVENTS, _FIELDS = PREFIX + "model-versions", PREFIX + "events", PREFIX + "expression-fields"
_BROKEN = {JobStatus.FAILED.value, JobStatus.STOPPED.value}
T = TypeVar("T")
_REPLY: TypeAdapter[Answer | Refusal] = TypeAdapter(Reply)

_ENQUEUE_UNLESS_IN_FLIGHT = """
-- KEYS: queue, job, then other jobs of the same request, then what earlier attempts left behind
-- ARGV: number of jobs, LPUSH or RPUSH, job id, time to live or 0, then the job's fields and values
for i = 2, 1 + ARGV[1] do
    local status = redis.call('HGET', KEYS[i], 'status')
    if status and status ~= 'finished' and status ~= 'failed' and status ~= 'stopped' then return 0 end
end
redis.call('DEL', unpack(KEYS, 2))
redis.call('HSET', KEYS[2], unpack(ARGV, 5))
if tonumber(ARGV[4]) > 0 then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
redis.call(ARGV[2], KEYS[1], ARGV[3])
return 1
"""


class Event(Wire):
    """What a webhook of Label Studio said, kept for those who will pull the corrections."""

    action: str
    project_id: int
    annotation_ids: tuple[int, ...] = ()
    task_ids: tuple[int, ...] = ()
    at: AwareDatetime


class JobQueue:
    """The one door to Redis: every method raises `RedisAway` when nobody is behind it.

    Args:
        redis: A client, as `connect` makes it; nothing is sent yet.
        settings: For the limits.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings
        self.gpu = Queue(GPU, connection=redis, serializer="json")
        self.label_studio = Queue(LABEL_STUDIO, connection=redis, serializer="json")
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
            jobs: The requests.
            front: Whether they go before all that wait.

        Returns:
            How many were not in flight.
        """
        wanted = {job.key: job for job in jobs}
        waiting = self._waiting(self.gpu)  # First: what others submit meanwhile must not be counted twice.
        in_flight = self._in_flight(wanted)
        new = [job for key, job in wanted.items() if key not in in_flight]
        self._check_room(waiting, len(new))
        taken = 0
        for chunk in _chunks(new[::-1] if front else new):
            with self.redis.pipeline(transaction=False) as pipe:
                for job in chunk:
                    self._push_predict(pipe, job, front=front)
                taken += sum(pipe.execute())
        return taken

    @renaming_redis_errors()
    def check_room(self, _project_id: int, count: int) -> None:
        """Ask whether so many more requests would be taken now."""
        self._check_room(self._waiting(self.gpu), count)

    def _check_room(self, waiting: int, count: int) -> None:
        if count and waiting + count > self.settings.queue_limit:
            limit = f"the limit of {self.settings.queue_limit} (RSREFSEG_QUEUE_LIMIT)"
            raise QueueFull(f"{waiting} requests wait, and {count} more would pass {limit}.", RETRY_AFTER_S)

    @renaming_redis_errors()
    def deliver(self, answer: Answer) -> None:
        """Hand an answer to the courier, once.

        Args:
            answer: What was found.
        """
        job = self.label_studio.create_job(
            "ml_backend.courier.deliver",
            args=(answer.model_dump_json(),),
            job_id=_deliver_id(answer.job.key),
            status=JobStatus.QUEUED,
            description=f"deliver task {answer.job.task_id} of project {answer.job.project_id}",
            result_ttl=DONE_TTL_S,
            failure_ttl=self.settings.failure_days * DAY_S,
            retry=Retry(max=len(DELIVER_BACKOFF_S), interval=DELIVER_BACKOFF_S),
            on_failure=Callback("workers.queue.on_failure"),
        )
        with self.redis.pipeline() as pipe:
            self._push(pipe, self.label_studio, job)
            pipe.execute()

    @renaming_redis_errors()
    def settle(self, job: PredictJob) -> None:
        """Say that a request's prediction is where it belongs.

        Args:
            job: The request.
        """
        key = job.key
        with self.redis.pipeline() as pipe:
            pipe.set(_settled_key(key), 1, ex=REPLY_TTL_S)
            self._failures.drop([key], pipe)
            pipe.execute()

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
    def states(self, _project_id: int, keys: Sequence[str]) -> list[State]:
        """Say how far requests are that were submitted before.

        Args:
            keys: Their keys.

        Returns:
            The state of each, in their order.
        """
        states: list[State] = []
        for chunk in _chunks(keys):
            in_flight = self._in_flight(chunk)
            with self.redis.pipeline(transaction=False) as pipe:
                for key in chunk:
                    pipe.exists(_settled_key(key))
                    pipe.exists(FailureList.key_of(key))
                    # RQ says so a moment before the failure is on the list.
                    pipe.hget(Job.key_for(_predict_id(key)), "status")
                    pipe.hget(Job.key_for(_deliver_id(key)), "status")
                seen = iter(pipe.execute())
            for key in chunk:
                settled, listed, *statuses = islice(seen, 4)
                broken = {as_text(status) for status in statuses if status} & _BROKEN
                if key in in_flight and not settled:
                    states.append("in flight")
                else:
                    states.append("failed" if listed or (broken and not settled) else "delivered")
        return states

    @renaming_redis_errors()
    def wait_for_reply(self, job: PredictJob, timeout_s: float) -> Answer | Refusal | None:
        """Wait for the reply to an interactive request.

        Args:
            job: The request, submitted before.
            timeout_s: How long to wait at most.

        Returns:
            The reply, or None when it did not come in time; a request that still waits is then taken back.
        """
        rq_job = Job(_predict_id(job.key), connection=self.redis, serializer="json")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            result = rq_job.latest_result(timeout=1)
            if result is None:
                continue
            if result.type is Result.Type.SUCCESSFUL:
                return _REPLY.validate_json(result.return_value)
            return Refusal(job=job, move="ours", reason=f"Something of ours broke; the log names it {rq_job.id}.")
        if self.gpu.remove(rq_job.id):
            self.redis.delete(rq_job.key)
        return None

    @renaming_redis_errors()
    def record_failure(self, failure: Failure) -> None:
        """Put a failure on the list that people see; those who wait for the request wait no longer.

        Args:
            failure: What went wrong.
        """
        self._failures.add(failure)
        self.redis.set(_settled_key(failure.key), 1, ex=REPLY_TTL_S)

    @renaming_redis_errors()
    def failures(self, project_id: int | None = None) -> list[Failure]:
        """List what went wrong for good.

        Args:
            project_id: Of this project only.

        Returns:
            The failures, newest first.
        """
        return [failure for failure in self._failures.all() if project_id in (None, failure.project_id)]

    @renaming_redis_errors()
    def clear_failures(self, keys: Sequence[str]) -> None:
        """Take failures off the list; keys of which none is there are no error.

        Args:
            keys: The requests' keys.
        """
        for chunk in _chunks(keys):
            self._failures.drop(chunk)

    @renaming_redis_errors()
    def announce(self, model_version: str, *, again: bool = False) -> None:
        """Say which model version a worker serves.

        Args:
            model_version: The version.
            again: Only in case Redis has forgotten it: it does not become the newest.
        """
        self.redis.zadd(_VERSIONS, {model_version: time.time()}, nx=again)

    def model_version(self) -> str | None:
        """Name the version that workers serve.

        Returns:
            The version announced last, or None before the first worker.
        """
        return next(iter(self.model_versions()), None)

    @renaming_redis_errors()
    def model_versions(self) -> list[str]:
        """List every version that workers ever served.

        Returns:
            The versions, newest first.
        """
        return [as_text(version) for version in self.redis.zrevrange(_VERSIONS, 0, -1)]

    @renaming_redis_errors()
    def keep_event(self, event: Event) -> None:
        """Keep a webhook's event for those who pull the corrections.

        Args:
            event: What the webhook said.
        """
        self.redis.xadd(_EVENTS, {"event": event.model_dump_json()}, maxlen=EVENTS_KEPT, approximate=True)

    @renaming_redis_errors()
    def keep_expression_field(self, project_id: int, field: str | None) -> None:
        """Remember which field of its tasks' data holds a project's expression.

        Args:
            project_id: The project.
            field: The key of the data; None where nobody named one.
        """
        if field is None:
            self.redis.hdel(_FIELDS, str(project_id))
        else:
            self.redis.hset(_FIELDS, str(project_id), field)

    @renaming_redis_errors()
    def expression_field(self, project_id: int) -> str | None:
        """Recall which field of its tasks' data holds a project's expression.

        Args:
            project_id: The project.

        Returns:
            The key of the data, or None where nobody named one.
        """
        field = self.redis.hget(_FIELDS, str(project_id))
        return None if field is None else as_text(field)

    @renaming_redis_errors()
    def counts(self) -> dict[str, int]:
        """Count the requests in each state, without touching any.

        Returns:
            How many are waiting, running, to_deliver and failed.
        """
        started = self.label_studio.started_job_registry
        return {
            "waiting": self._waiting(self.gpu),
            "running": self.gpu.started_job_registry.get_job_count(cleanup=False),
            "to_deliver": self._waiting(self.label_studio) + started.get_job_count(cleanup=False),
            "failed": len(self._failures.all()),
        }

    def _waiting(self, queue: Queue) -> int:
        return int(queue.count + ScheduledJobRegistry(queue=queue).get_job_count(cleanup=False))

    def _in_flight(self, keys: Iterable[str]) -> set[str]:
        ended = {None, JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED}
        found = set()
        for chunk in _chunks(tuple(keys)):
            with self.redis.pipeline(transaction=False) as pipe:
                for key in chunk:
                    pipe.hget(Job.key_for(_predict_id(key)), "status")
                    pipe.hget(Job.key_for(_deliver_id(key)), "status")
                statuses = [JobStatus(as_text(status)) if status else None for status in pipe.execute()]
            for key, *both in zip(chunk, statuses[::2], statuses[1::2], strict=True):
                if not ended.issuperset(both):
                    found.add(key)
        return found

    def _push_predict(self, pipe: Pipeline, request: PredictJob, *, front: bool) -> None:
        key, interactive = request.key, request.interactive
        job = self.gpu.create_job(
            "workers.predict.predict",
            args=(request.model_dump_json(),),
            job_id=_predict_id(key),
            status=JobStatus.QUEUED,
            description=f"predict task {request.task_id} of project {request.project_id}",
            timeout=self.settings.predict_timeout_s,
            result_ttl=REPLY_TTL_S if interactive else DONE_TTL_S,
            failure_ttl=REPLY_TTL_S if interactive else self.settings.failure_days * DAY_S,
            # After the deadline nobody waits for an interactive reply, and who asked may have died.
            ttl=int(self.settings.interactive_wait_s) + 5 if interactive else None,
            # For workers that die; what the job itself knows to be away it tries again with pauses.
            retry=None if interactive else Retry(max=WORKER_DEATHS, enqueue_at_front=True),
            on_failure=Callback("workers.queue.on_failure"),
        )
        leftovers = [
            Result.get_key(job.id),
            Result.get_key(_deliver_id(key)),
            _settled_key(key),
            FailureList.key_of(key),
        ]
        self._push(pipe, self.gpu, job, Job.key_for(_deliver_id(key)), leftovers=leftovers, front=front)

    def _push(
        self, pipe: Pipeline, queue: Queue, job: Job, *others: str, leftovers: Sequence[str] = (), front: bool = False
    ) -> None:
        job.enqueued_at = now()
        fields = [part for field in job.to_dict().items() for part in field]
        self._enqueue_unless_in_flight(
            keys=[queue.key, job.key, *others, *leftovers],
            args=[1 + len(others), "LPUSH" if front else "RPUSH", job.id, job.ttl or 0, *fields],
            client=pipe,
        )


def on_failure(
    job: Job,
    connection: Redis,
    kind: type[BaseException],
    _exc: BaseException,
    _traceback: TracebackType | None,
) -> None:
    """Put a job of ours that RQ gives up on the list of failures; RQ calls this whenever one raised or lost its worker.

    Args:
        job: The job.
        connection: Where it is.
        kind: What it raised; `AbandonedJobError` if its worker died.
    """
    stopped = issubclass(kind, JobStopped)
    if job.should_retry and not stopped:
        return
    try:
        stage, request = _request_of(job)
    except ValidationError:
        log.error("a job of another version failed", extra={"failed_job": job.id})
        return
    move: Move = "annotator" if stopped else "ours"
    if stopped:
        reason = "It was stopped by hand; retrieve predictions again to ask anew."
    elif kind is AbandonedJobError:
        reason = f"{WORKER_DEATHS + 1} workers died over it, most likely for want of memory."
    else:
        reason = f"Something of ours broke; the log names it {job.id}."
    if not request.interactive:
        FailureList(connection, job.failure_ttl or DAY_S).add(Failure.of(request, stage, move, reason))


def _request_of(job: Job) -> tuple[Stage, PredictJob]:
    text = job.args[0]
    if job.id.startswith(_deliver_id("")):
        return "deliver", Answer.model_validate_json(text).job
    return "predict", PredictJob.model_validate_json(text)


def _predict_id(key: str) -> str:
    return f"predict-{key}"


def _deliver_id(key: str) -> str:
    return f"deliver-{key}"


def _settled_key(key: str) -> str:
    return f"{PREFIX}settled:{key}"


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
