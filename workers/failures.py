"""What went wrong for good: whose move it is, why, and for which image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field
from redis import Redis
from redis.client import Pipeline
from rq.utils import as_text

from workers.contract import PredictJob, Wire
from workers.errors import Move

Stage = Literal["predict", "deliver"]
"""Where a request was when it failed."""

SHOWN_URI = 200
"""How much of a URI is shown to people, in characters."""


class Failure(Wire):
    """A request that ended without a prediction; it stays listed until it is asked again or its days are over."""

    key: str
    project_id: int
    task_id: int
    image_uri: Annotated[str, Field(max_length=SHOWN_URI)]
    expressions: tuple[str, ...]
    stage: Stage
    move: Move
    reason: Annotated[str, Field(min_length=1)]
    at: AwareDatetime

    @classmethod
    def of(cls, job: PredictJob, stage: Stage, move: Move, reason: str) -> Self:
        """Say now that a job failed.

        Args:
            job: What was asked.
            stage: Where it failed.
            move: Whose move it is.
            reason: Why, in a sentence that names the thing.

        Returns:
            The failure.
        """
        return cls(
            key=job.key,
            project_id=job.project_id,
            task_id=job.task_id,
            image_uri=shown(job.image_uris[0]),
            expressions=tuple(ask.expression for ask in job.asks),
            stage=stage,
            move=move,
            reason=reason,
            at=datetime.now(UTC),
        )


def shown(uri: str) -> str:
    """Shorten a URI to what a person needs in order to recognise it.

    The query of an address elsewhere goes: in a presigned URL it is a password.

    Args:
        uri: As the task holds it.

    Returns:
        At most `SHOWN_URI` characters.

    >>> shown("https://me:secret@bucket.example/7.png?X-Amz-Signature=abc")
    'https://bucket.example/7.png'
    >>> shown("/data/local-files/?d=scenes/7.png")
    '/data/local-files/?d=scenes/7.png'
    """
    if uri.lower().startswith(("http://", "https://")):
        # By hand: an address that will not do must be shown as well.
        scheme, _, rest = uri.partition("://")
        host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
        uri = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return uri if len(uri) <= SHOWN_URI else uri[: SHOWN_URI - 1] + "…"


class FailureList:
    """The failures that people see, in Redis until they are asked again or too old.

    Args:
        redis: Where.
        ttl_s: How long one stays, in seconds.
    """

    INDEX = "rsrefseg:failures"
    """The key of Redis with the requests' keys by the time that they failed."""

    def __init__(self, redis: Redis, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    @staticmethod
    def key_of(request_key: str) -> str:
        """Name the place of a request's failure.

        Args:
            request_key: The request's key.

        Returns:
            A key of Redis.
        """
        return f"rsrefseg:failure:{request_key}"

    def add(self, failure: Failure, pipe: Pipeline) -> None:
        """Put a failure on the list, in place of an earlier one of the same request.

        Args:
            failure: What went wrong.
            pipe: To send it with.
        """
        pipe.set(self.key_of(failure.key), failure.model_dump_json(), ex=self._ttl_s)
        pipe.zadd(self.INDEX, {failure.key: failure.at.timestamp()})

    def drop(self, request_keys: Sequence[str], pipe: Pipeline | None = None) -> None:
        """Take failures off the list.

        Args:
            request_keys: The requests' keys; at least one.
            pipe: To send it with.
        """
        redis = self._redis if pipe is None else pipe
        redis.delete(*map(self.key_of, request_keys))
        redis.zrem(self.INDEX, *request_keys)

    def listed(self, request_keys: Sequence[str]) -> list[bool]:
        """Say of which requests there is a failure on the list.

        Args:
            request_keys: Their keys.

        Returns:
            For each whether there is.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for key in request_keys:
                pipe.exists(self.key_of(key))
            return [bool(there) for there in pipe.execute()]

    def count(self) -> int:
        """Count what is on the list.

        Returns:
            How many failures.
        """
        self._forget_old()
        return int(self._redis.zcard(self.INDEX))

    def newest(self, most: int | None) -> list[Failure]:
        """Read the list.

        Args:
            most: No more than so many; None for all.

        Returns:
            The failures, newest first.
        """
        self._forget_old()
        if most == 0:
            return []
        last = -1 if most is None else most - 1
        keys = [self.key_of(as_text(key)) for key in self._redis.zrevrange(self.INDEX, 0, last)]
        texts = self._redis.mget(keys) if keys else []
        return [Failure.model_validate_json(text) for text in texts if text]

    def _forget_old(self) -> None:
        self._redis.zremrangebyscore(self.INDEX, 0, time.time() - self._ttl_s)
