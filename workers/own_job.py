"""The jobs that this project takes from Redis: RQ would call whatever a job names, `os.system` as well."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus

from workers.errors import ForeignJob

FUNCTIONS = frozenset({
    "workers.predict.work",
    "workers.predict.reply",
    "workers.retrain.retrain",
    "ml_backend.courier.deliver",
})
"""What a job may call."""

CALLBACKS = frozenset({"workers.given_up.on_failure"})
"""What RQ may call when a job has failed; nothing is called when one succeeds or is stopped."""


class OwnJob(Job):  # type: ignore[misc]  # rq is not followed
    """A job that calls nothing but functions of ours, whoever wrote it."""

    def perform(self) -> Any:
        """Call the function.

        Returns:
            What it returns.

        Raises:
            ForeignJob: If the job names another function, or a callback that is not ours.
        """
        if (foreign := self._foreign()) is not None:
            raise ForeignJob(self.id, foreign)
        return super().perform()

    @property
    def success_callback(self) -> None:
        """Nothing, whatever the job says."""
        return

    @property
    def failure_callback(self) -> Any:
        """What lists the failure; nothing for a job that is not ours."""
        return None if self._foreign() is not None else super().failure_callback

    @property
    def stopped_callback(self) -> None:
        """Nothing, whatever the job says."""
        return

    def send_webhooks(self, status: JobStatus, exc_string: str | None = None) -> None:
        """Tell nobody: RQ would post to any address that a job names.

        Args:
            status: Not used.
            exc_string: Not used.
        """

    def _foreign(self) -> str | None:
        # What it names that is not ours.
        try:
            name = self.func_name
            if self.instance is not None or name not in FUNCTIONS:
                return f"calls {name!r}"
        except DeserializationError:
            return "is not JSON"
        named = (self._success_callback_name, self._failure_callback_name, self._stopped_callback_name)
        strange = [callback for callback in named if callback and callback not in CALLBACKS]
        return f"names the callback {strange[0]!r}" if strange else None


def queue_of(name: str, redis: Redis) -> Queue:
    """Find a queue of ours, whose jobs are JSON.

    Args:
        name: Its name.
        redis: Where.

    Returns:
        The queue; nothing is sent yet.
    """
    return Queue(name, connection=redis, serializer="json", job_class=OwnJob)
