"""What RQ calls when it gives up a job of ours: whoever waits for its requests learns why, and waits no longer."""

from __future__ import annotations

import logging
from types import TracebackType

from pydantic import ValidationError
from redis import Redis
from rq.exceptions import AbandonedJobError
from rq.job import Job
from rq.utils import now

from workers import metrics
from workers.errors import JobStopped, Move
from workers.failures import Failure, FailureList
from workers.jobs import DAY_S, GPU, LABEL_STUDIO, TRAINING, WORKER_DEATHS, requests_of
from workers.lines import Lines
from workers.notices import NoticeBoard
from workers.own_job import queue_of

log = logging.getLogger(__name__)


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
    cause = "stopped" if stopped else "worker_died" if kind is AbandonedJobError else "broken"
    if job.id.startswith(TRAINING):
        metrics.TRAININGS.labels("stopped" if stopped else "failed").inc()
        _record_training(NoticeBoard(connection), job, kind)
        return
    try:
        stage, requests = requests_of(job)
    except ValidationError:
        log.error("a job of another version failed", extra={"failed_job": job.id})
        return
    move: Move = "annotator" if stopped else "ours"
    reason = _reason(kind, job, "workers") + (" Retrieve predictions again to ask anew." if stopped else "")
    if stage == "predict":
        lines = Lines(connection, queue_of(GPU, connection), queue_of(LABEL_STUDIO, connection), 0)
        requests = tuple(lines.still_held(requests, job.id))
    failures = FailureList(connection, job.failure_ttl or DAY_S)
    for request in requests:
        metrics.FAILURES.labels(stage, move, cause).inc()
        record(connection, failures, Failure.of(request, stage, move, reason))


def _record_training(notices: NoticeBoard, job: Job, kind: type[BaseException]) -> None:
    project_id = int(job.id.removeprefix(TRAINING))
    training = notices.trainings().get(project_id)
    if training is None:
        return
    reason = _reason(kind, job, "trainers")
    notices.keep_training(training.model_copy(update={"stage": "failed", "reason": reason, "at": now()}))


def _reason(kind: type[BaseException], job: Job, processes: str) -> str:
    if issubclass(kind, JobStopped):
        return "It was stopped by hand."
    if kind is AbandonedJobError:
        return f"{WORKER_DEATHS + 1} {processes} died over it, most likely for want of memory."
    return f"Something of ours broke; the log names it {job.id}."


def record(redis: Redis, failures: FailureList, failure: Failure) -> None:
    """List a failure, and let go of its request at the same moment.

    Args:
        redis: Where.
        failures: The list.
        failure: What went wrong.
    """
    with redis.pipeline() as pipe:
        failures.add(failure, pipe)
        Lines.release(pipe, failure.project_id, failure.key)
        pipe.execute()
