"""What the queue and its workers do just now, for a person or for a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import AwareDatetime
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rq import SimpleWorker
from rq.job import Job
from rq.utils import as_text
from rq.worker_registration import get_keys

from workers.contract import Training, Wire
from workers.device_use import BUSY, MEMORY
from workers.errors import Move
from workers.failures import Failure
from workers.leased import DEVICE
from workers.notices import Trouble
from workers.queue import JobQueue
from workers.redis_client import renaming_redis_errors
from workers.training_table import training_table

MOVES: dict[Move, str] = {"annotator": "the task's owner", "wait": "wait, then ask again", "ours": "the operator"}
"""Whose move it is, in the words of the table."""


SHOWN = 20
"""Most failures, and most projects, in a table."""

LOOK_S = 1.0
"""How often a terminal is written anew, in seconds."""


class WorkerState(Wire):
    """One process that takes jobs."""

    name: str
    queues: tuple[str, ...]
    device: str | None
    """What its model runs on; None for a courier."""
    memory_bytes: int | None
    """What it holds of that; of a CPU, the memory of the process."""
    busy: float | None
    """The share of the last minute in which it computed."""
    state: str
    job: str | None
    """The job that it works on."""
    works_on: str | None
    """What that job is about."""
    done: int
    """Jobs, each of up to 64 requests."""
    failed: int
    heard_at: AwareDatetime | None
    """When it last said that it lives."""


class Status(Wire):
    """Everything that `rsrefseg-worker status` shows."""

    waiting: int
    running: int
    to_deliver: int
    failed: int
    answered_per_s: float
    """Requests that the workers answered in a second, over the last minute."""
    delivered_per_s: float
    """Predictions that the couriers settled, the same way."""
    projects: dict[int, int]
    """Requests on their way of each project."""
    model_version: str | None
    """What serves the projects that have no champion of their own."""
    champions: dict[int, str]
    """The model version of each project that has one."""
    troubles: dict[int, tuple[Trouble, ...]]
    """Champions that a machine cannot load; what served before goes on there."""
    workers: tuple[WorkerState, ...]
    failures: tuple[Failure, ...]
    """The newest, as many as were wanted."""
    trainings: tuple[Training, ...]
    """How far the training of each project is, or how its last one ended."""


@renaming_redis_errors()
def status_of(queue: JobQueue, *, failures: int | None = None) -> Status:
    """Look at a queue and its workers, without touching any job.

    Args:
        queue: The queue.
        failures: How many of the failures to read, the newest; None for all.

    Returns:
        What they do.
    """
    workers = sorted(SimpleWorker.all(connection=queue.redis, serializer="json"), key=lambda worker: worker.name)
    rates = queue.rates()
    return Status(
        **queue.counts(),
        answered_per_s=rates["answered_per_s"],
        delivered_per_s=rates["delivered_per_s"],
        projects=queue.projects(),
        model_version=queue.model_version(),
        champions=queue.champions(),
        troubles=queue.troubles(),
        workers=tuple(_state_of(worker) for worker in workers),
        failures=tuple(queue.failures(most=failures)),
        trainings=tuple(queue.trainings().values()),
    )


@renaming_redis_errors()
def names_of_workers(queue: JobQueue) -> list[str]:
    """Say who takes jobs, in two calls to Redis, whatever waits or has failed.

    Args:
        queue: From any queue of the same Redis.

    Returns:
        Their names; not of those that were not heard of for long.
    """
    keys = sorted(get_keys(connection=queue.redis))
    with queue.redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.exists(key)
        there = pipe.execute()
    return [
        key.removeprefix(SimpleWorker.redis_worker_namespace_prefix)
        for key, lives in zip(keys, there, strict=True)
        if lives
    ]


def _state_of(worker: SimpleWorker) -> WorkerState:
    job_id = worker.get_current_job_id()
    works_on = worker.connection.hget(Job.key_for(job_id), "description") if job_id else None
    device, memory, busy = worker.connection.hmget(worker.key, DEVICE, MEMORY, BUSY)
    return WorkerState(
        name=worker.name,
        queues=tuple(worker.queue_names()),
        state=worker.get_state(),
        device=as_text(device) if device else None,
        memory_bytes=int(memory) if memory else None,
        busy=float(busy) if busy else None,
        job=job_id,
        works_on=as_text(works_on) if works_on else None,
        done=worker.successful_job_count,
        failed=worker.failed_job_count,
        heard_at=worker.last_heartbeat,
    )


def watch(look: Callable[[], Status], console: Console, *, once: bool = False) -> None:
    """Show a status, in a terminal again each second until Ctrl-C.

    Args:
        look: Looks.
        console: Where to show it.
        once: Not again, in a terminal neither.
    """
    if once or not console.is_terminal:
        console.print(as_tables(look()))
        return
    with Live(as_tables(look()), console=console, auto_refresh=False, screen=True) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(LOOK_S)
            live.update(as_tables(look()), refresh=True)


def as_tables(status: Status) -> RenderableType:
    """Lay a status out for a person.

    Args:
        status: The status.

    Returns:
        Tables for the terminal.
    """
    counts = Table("waiting", "running", "to deliver", "failed", "answered", "delivered", "model version")
    counts.title = "Requests"
    numbers = (status.waiting, status.running, status.to_deliver, status.failed)
    rates = (f"{status.answered_per_s:.1f}/s", f"{status.delivered_per_s:.1f}/s")
    counts.add_row(*map(str, numbers), *rates, status.model_version or "none yet")
    return Group(
        counts,
        _projects_line(status.projects),
        *_champions(status),
        _workers_table(status.workers),
        training_table(status.trainings) or "Nothing was taught yet.",
        _failures_table(status),
    )


def _projects_line(projects: dict[int, int]) -> str:
    largest = sorted(projects.items(), key=lambda item: -item[1])
    said = ", ".join(f"project {project}: {count}" for project, count in largest[:SHOWN])
    more = f" and {len(largest) - SHOWN} projects more" if len(largest) > SHOWN else ""
    return f"On their way: {said}{more}." if said else "Nothing is on its way."


def _champions(status: Status) -> Iterator[RenderableType]:
    if not status.champions:
        return
    table = Table("project", "model version", "cannot be loaded", title="Champions")
    # What is wrong first.
    for project, version in sorted(status.champions.items(), key=lambda item: (item[0] not in status.troubles, item)):
        troubles = [f"on {one.host} ({one.at:%H:%M}): {one.reason}" for one in status.troubles.get(project, ())]
        table.add_row(str(project), version, escape("\n".join(troubles)))
        if table.row_count == SHOWN:
            break
    yield table
    if len(status.champions) > SHOWN:
        yield f"And {len(status.champions) - SHOWN} champions more: --json lists all."
    if status.troubles:
        yield (
            "What served before goes on meanwhile. `rsrefseg-backend models rollback --project ID` makes that the "
            "champion. A worker on another machine needs the same RSREFSEG_DATA."
        )


def _workers_table(workers: Sequence[WorkerState]) -> RenderableType:
    if not workers:
        return "No process takes jobs: start one with `rsrefseg-worker run`."
    table = Table("worker", "queues", "on", "state", "works on", "done", "failed", "heard", title="Workers")
    for worker in workers:
        heard = f"{(datetime.now(UTC) - worker.heard_at).total_seconds():.0f} s ago" if worker.heard_at else "never"
        about = (", ".join(worker.queues), worker.device or "-", worker.state, worker.works_on or "-")
        table.add_row(worker.name, *about, str(worker.done), str(worker.failed), heard)
    return table


def _failures_table(status: Status) -> RenderableType:
    if not status.failures:
        return "Nothing has failed."
    table = Table("project", "task", "image", "expressions", "stage", "whose move", "reason", "at", title="Failures")
    for failure in status.failures[:SHOWN]:
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
    more = status.failed - SHOWN
    hint = f"And {more} more: --json lists all. " if more > 0 else ""
    return Group(table, f"{hint}`rsrefseg-backend prelabel --project ID` asks again for what a project lacks.")
