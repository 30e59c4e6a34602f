"""Who holds each request in flight, and whose turn it is: the part of the queue that is ours and not RQ's.

    claim --> line of the project --feed, project by project--> RQ's list --> worker --> release

A request is in flight from its claim to its release. Its holder is a chunk, which is one job of RQ, or the delivery of
its answer. A chunk may only be worked on as far as it still holds its requests, so whatever is claimed twice, put back
or asked anew is computed by one worker. A holder whose job is gone holds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.utils import as_text
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from workers.contract import PredictJob
from workers.failures import FailureList

PREFIX = "rsrefseg:"
"""What the keys of ours begin with."""

DELIVERY = "delivery"
"""The holder of a request whose answer is on its way to Label Studio."""

Place = Literal["line", "head of line", "front", "later"]
"""Where a chunk waits: with those of its project, before them, before all others, or for its time to come."""

_PROJECTS, _TURN = PREFIX + "projects", PREFIX + "turn"

_ALIVE = """
local ended = {finished = true, failed = true, stopped = true, canceled = true}
local function alive(holder, key)
    if not holder then return false end
    local job = holder == 'delivery' and 'deliver-' .. key or holder
    local status = redis.call('HGET', ARGV[1] .. job, 'status')
    return status and not ended[status]
end
"""

_FEED = """
local function feed(gpu, turn, workers, answers, line, most_answers)
    -- One more than there are workers, so that each finds one, and no more, so that a new project waits for few.
    local wanted = redis.call('SCARD', workers) + 1
    if redis.call('LLEN', answers) >= most_answers then return end
    while redis.call('LLEN', gpu) < wanted do
        local project = redis.call('LMOVE', turn, turn, 'LEFT', 'RIGHT')
        if not project then return end
        local chunk = redis.call('LPOP', line .. project)
        if chunk then redis.call('RPUSH', gpu, chunk) else redis.call('LREM', turn, 1, project) end
    end
end
"""

_CLAIM = (
    _ALIVE
    + _FEED
    + """
-- KEYS: requests, projects, turn, gpu, workers, answers, scheduled, failures
-- ARGV: prefix of jobs, prefix of lines, prefix of failures, most answers, project, former holder or '', place, due,
--       chunk, number of requests, their keys, then the job's fields and values
local line, project, former, place, chunk, count = ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[9], tonumber(ARGV[10])
local claimed = 0
for i = 11, 10 + count do
    local holder = redis.call('HGET', KEYS[1], ARGV[i])
    local free = former == '' and not alive(holder, ARGV[i]) or former ~= '' and holder == former
    if free then
        claimed = claimed + 1
        redis.call('HSET', KEYS[1], ARGV[i], chunk)
        if former == '' and redis.call('DEL', ARGV[3] .. ARGV[i]) == 1 then
            redis.call('ZREM', KEYS[8], ARGV[i])
        end
    end
end
if claimed == 0 then return 0 end
redis.call('SADD', KEYS[2], project)
redis.call('HSET', ARGV[1] .. chunk, unpack(ARGV, 11 + count))
if place == 'front' then
    redis.call('LPUSH', KEYS[4], chunk)
elseif place == 'later' then
    redis.call('ZADD', KEYS[7], ARGV[8], chunk)
else
    local waiting = redis.call(place == 'line' and 'RPUSH' or 'LPUSH', line .. project, chunk)
    if waiting == 1 then
        redis.call('LREM', KEYS[3], 0, project)
        redis.call('RPUSH', KEYS[3], project)
    end
    feed(KEYS[4], KEYS[3], KEYS[5], KEYS[6], line, tonumber(ARGV[4]))
end
return claimed
"""
)

_HELD = (
    _ALIVE
    + """
-- KEYS: requests. ARGV: prefix of jobs, then keys
local held = {}
for i = 2, #ARGV do
    local holder = redis.call('HGET', KEYS[1], ARGV[i])
    held[i - 1] = not holder and '' or alive(holder, ARGV[i]) and holder or 'gone'
end
return held
"""
)

GONE = "gone"
"""What holds a request whose job has ended without it."""


class Lines:
    """The requests in flight, in lines of their own for each project.

    Args:
        redis: Where.
        gpu: RQ's queue that workers with a model serve.
        label_studio: RQ's queue that couriers serve.
        most_answers: With so many answers to deliver no more chunks are fed to the workers.
    """

    def __init__(self, redis: Redis, gpu: Queue, label_studio: Queue, most_answers: int) -> None:
        self._redis = redis
        self._gpu = gpu
        self._fed = [gpu.key, _TURN, WORKERS_BY_QUEUE_KEY % gpu.name, label_studio.key]
        self._most_answers = most_answers
        self._claim = redis.register_script(_CLAIM)
        self._held = redis.register_script(_HELD)
        self._feed = redis.register_script(
            _FEED + "feed(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], tonumber(ARGV[2]))"
        )

    def claim(
        self, chunk: Job, project_id: int, keys: Sequence[str], place: Place, *, former: str = "", due: int = 0
    ) -> int:
        """Let a chunk hold requests, and send it on its way unless it would hold none.

        Args:
            chunk: Not yet in Redis.
            project_id: The project of all of them.
            keys: The requests' keys.
            place: Where it waits.
            former: Only those that this chunk holds; without it only those that nobody holds.
            due: When its time comes, in seconds since 1970; for the place "later".

        Returns:
            How many it holds now.
        """
        gpu, turn, workers, answers = self._fed
        scheduled = ScheduledJobRegistry(queue=self._gpu).key
        fields = [part for field in chunk.to_dict().items() for part in field]
        places = [Job.key_for(""), _line_of(""), FailureList.key_of(""), self._most_answers]
        claimed = self._claim(
            keys=[_requests_of(project_id), _PROJECTS, turn, gpu, workers, answers, scheduled, FailureList.INDEX],
            args=[*places, project_id, former, place, due, chunk.id, len(keys), *keys, *fields],
        )
        return int(claimed)

    def feed(self) -> None:
        """Let the next chunks go to the workers: one of each project, then the next of each."""
        self._feed(keys=self._fed, args=[_line_of(""), self._most_answers])

    def heads(self) -> list[str]:
        """List the chunks that are next in their projects' lines.

        Returns:
            Their jobs.
        """
        projects = [int(project) for project in self._redis.smembers(_PROJECTS)]
        with self._redis.pipeline(transaction=False) as pipe:
            for project in projects:
                pipe.lindex(_line_of(project), 0)
            return [as_text(chunk) for chunk in pipe.execute() if chunk]

    def holders(self, project_id: int, keys: Sequence[str]) -> list[str]:
        """Say who holds requests.

        Args:
            project_id: The project of all of them.
            keys: The requests' keys.

        Returns:
            For each the id of a chunk, `DELIVERY`, `GONE`, or "" where nobody does.
        """
        return [
            as_text(holder) for holder in self._held(keys=[_requests_of(project_id)], args=[Job.key_for(""), *keys])
        ]

    def still_held(self, requests: Sequence[PredictJob], chunk_id: str) -> list[PredictJob]:
        """Say which requests a chunk holds.

        Args:
            requests: Of one project; at least one.
            chunk_id: The chunk's job, which may have ended.

        Returns:
            Those that it does.
        """
        holders = self._redis.hmget(_requests_of(requests[0].project_id), [request.key for request in requests])
        return [
            request
            for request, holder in zip(requests, holders, strict=True)
            if holder is not None and as_text(holder) == chunk_id
        ]

    @staticmethod
    def pass_on(pipe: Pipeline, project_id: int, key: str) -> None:
        """Let the delivery of its answer hold a request.

        Args:
            pipe: To send it with.
            project_id: The request's project.
            key: The request's key.
        """
        pipe.hset(_requests_of(project_id), key, DELIVERY)
        pipe.sadd(_PROJECTS, project_id)

    @staticmethod
    def release(pipe: Pipeline, project_id: int, key: str) -> None:
        """Say that a request has come to its end.

        Args:
            pipe: To send it with.
            project_id: The request's project.
            key: The request's key.
        """
        pipe.hdel(_requests_of(project_id), key)

    def counts(self) -> dict[int, int]:
        """Count the requests in flight.

        Returns:
            How many each project has that has any.
        """
        projects = sorted(int(project) for project in self._redis.smembers(_PROJECTS))
        with self._redis.pipeline(transaction=False) as pipe:
            for project in projects:
                pipe.hlen(_requests_of(project))
            counts = dict(zip(projects, pipe.execute(), strict=True))
        return {project: count for project, count in counts.items() if count}


def _requests_of(project_id: int) -> str:
    return f"{PREFIX}requests:{project_id}"


def _line_of(project_id: int | str) -> str:
    return f"{PREFIX}line:{project_id}"
