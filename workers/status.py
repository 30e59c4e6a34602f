"""What the queue and its workers do just now, for a person or for a script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import AwareDatetime
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rq import SimpleWorker

from workers.contract import Wire
from workers.errors import Move
from workers.failures import Failure
from workers.queue import JobQueue
from workers.redis_client import renaming_redis_errors

MOVES: dict[Move, str] = {"annotator": "the task's owner", "wait": "wait, then ask again", "ours": "the operator"}
"""Whose move it is, in the words of the table."""


class WorkerState(Wire):
    """One process that takes jobs."""

    name: str
    queues: tuple[str, ...]
    state: str
    job: str | None
    """What it works on."""
    done: int
    failed: int
    heard_at: AwareDatetime | None
    """When it last said that it lives."""


class Status(Wire):
    """Everything that `rsrefseg-worker status` shows."""

    waiting: int
    running: int
    to_deliver: int
    failed: int
    model_version: str | None
    workers: tuple[WorkerState, ...]
    failures: tuple[Failure, ...]


@renaming_redis_errors()
def status_of(queue: JobQueue) -> Status:
    """Look at a queue and its workers, without touching any job.

    Args:
        queue: The queue.

    Returns:
        What they do.
    """
    workers = sorted(SimpleWorker.all(connection=queue.redis, serializer="json"), key=lambda worker: worker.name)
    return Status(
        **queue.counts(),
        model_version=queue.model_version(),
        workers=tuple(_state_of(worker) for worker in workers),
        failures=tuple(queue.failures()),
    )


def _state_of(worker: SimpleWorker) -> WorkerState:
    job = worker.get_current_job_id()
    return WorkerState(
        name=worker.name,
        queues=tuple(worker.queue_names()),
        state=worker.get_state(),
        job=job,
        done=worker.successful_job_count,
        failed=worker.failed_job_count,
        heard_at=worker.last_heartbeat,
    )


def as_tables(status: Status) -> RenderableType:
    """Lay a status out for a person.

    Args:
        status: The status.

    Returns:
        Tables for the terminal.
    """
    counts = Table("waiting", "running", "to deliver", "failed", "model version", title="Requests")
    numbers = (status.waiting, status.running, status.to_deliver, status.failed)
    counts.add_row(*map(str, numbers), status.model_version or "none yet")
    return Group(counts, _workers_table(status.workers), _failures_table(status.failures))


def _workers_table(workers: Sequence[WorkerState]) -> RenderableType:
    if not workers:
        return "No process takes jobs: start one with `rsrefseg-worker run`."
    table = Table("worker", "queues", "state", "works on", "done", "failed", "heard", title="Workers")
    for worker in workers:
        heard = f"{(datetime.now(UTC) - worker.heard_at).total_seconds():.0f} s ago" if worker.heard_at else "never"
        counts = (str(worker.done), str(worker.failed))
        table.add_row(worker.name, ", ".join(worker.queues), worker.state, worker.job or "-", *counts, heard)
    return table


def _failures_table(failures: Sequence[Failure]) -> RenderableType:
    if not failures:
        return "Nothing has failed."
    table = Table("project", "task", "image", "expressions", "stage", "whose move", "reason", "at", title="Failures")
    for failure in failures:
        table.add_row(
            str(failure.project_id),
            str(failure.task_id),
            escape(failure.image_uri),
            escape(", ".join(failure.expressions)),
            failure.stage,
            MOVES[failure.move],
            escape(failure.reason),
            f"{failure.at:%Y-%m-%d %H:%M}",
        )
    return table
