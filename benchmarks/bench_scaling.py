"""How well do workers share the work, and how much does what lies between them cost?

The model sleeps, all else is real: images are downloaded and decoded, requests and answers cross Redis. Rates are taken
from the moments at which answers were handed over, between the first and the last twentieth of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bench_dispatch
import click
import httpx
from fleets import beside, fleet, label_studio
from label_studio_process import Tasks
from record import keep
from rq import Queue, SimpleWorker
from rq.job import Job

from workers.settings import Settings
from workers.status import status_of

SLOW_S = 0.1
"""An image's time where eight workers share the work."""

FAST_S = 0.05
"""An image's time where one worker has to keep up with it."""

DELIVERIES = 200
"""How many answers a courier is watched at."""

EMPTY_JOBS = 500
LONGEST_S = 1800.0
"""After which a load is given up."""


@dataclass(frozen=True)
class Load:
    """How one load went."""

    per_s: float
    """Answers, in the steady state."""
    seconds: float
    """From the first answer to the last."""
    jobs: int
    """Of RQ, that the workers did for it."""
    redis_ms: float
    """Of Redis' only thread for each request, from its enqueueing to its answer."""
    delivered_per_s: float | None
    """By one courier, to a Label Studio that answers at once; None where none was started."""


def load(
    workers: int, seconds_per_image: float, tasks: int, address: tuple[str, str], *, with_courier: bool = False
) -> Load:
    """Put tasks through workers.

    Args:
        workers: How many.
        seconds_per_image: What each image takes them.
        tasks: How many, each with an image of its own.
        address: Of Label Studio, and the key to it.
        with_courier: Whether one delivers afterwards; Label Studio then has predictions of these tasks.

    Returns:
        How it went.

    Raises:
        ClickException: If not all were answered in time.
    """
    with gathered(tasks, address) as ours:
        gpus = ",".join(map(str, range(workers)))
        ours.start(*fleet.WORKER, "--simulate", str(seconds_per_image), "--gpus", gpus)
        ours.wait_for(ours.queue.gpu, workers)
        began = redis_cpu_s(ours)
        if (enqueued := ours.run(*fleet.PRELABEL, "--limit", str(tasks))["enqueued"]) != tasks:
            raise click.ClickException(f"{enqueued} of {tasks} tasks were enqueued")
        deadline = time.monotonic() + LONGEST_S
        while (done := ours.queue.label_studio.count) < tasks:
            if time.monotonic() > deadline or ours.queue.failures():
                raise click.ClickException(f"{done} of {tasks} were answered; failed: {ours.queue.failures()[:3]}")
            time.sleep(0.5)
        ids = ours.queue.label_studio.get_job_ids()
        jobs = Job.fetch_many(ids, connection=ours.queue.redis, serializer="json")
        times = sorted(job.created_at.timestamp() for job in jobs if job)
        redis_ms = 1000 * (redis_cpu_s(ours) - began) / tasks
        done_jobs = sum(worker.done for worker in status_of(ours.queue).workers)
        delivered_per_s = deliver(ours, tasks) if with_courier else None
    first, last = len(times) // 20, len(times) - 1 - len(times) // 20
    per_s = (last - first) / (times[last] - times[first])
    return Load(per_s, times[-1] - times[0], done_jobs, redis_ms, delivered_per_s)


def deliver(ours: fleet.Fleet, answers: int) -> float:
    """Let one courier deliver some of the answers that wait.

    Args:
        ours: Who has them.
        answers: How many wait.

    Returns:
        Deliveries a second, once it has begun.
    """
    ours.start(*fleet.COURIER)
    moments = []
    for delivered in (DELIVERIES // 10, DELIVERIES):
        while ours.queue.counts()["to_deliver"] > answers - delivered:
            time.sleep(0.02)
        moments.append(time.perf_counter())
    return (DELIVERIES - DELIVERIES // 10) / (moments[1] - moments[0])


def redis_cpu_s(ours: fleet.Fleet) -> float:
    """Ask Redis how long it has computed.

    Args:
        ours: Whose Redis.

    Returns:
        Seconds of a core.
    """
    used = ours.queue.redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


@contextmanager
def gathered(tasks: int, address: tuple[str, str]) -> Iterator[fleet.Fleet]:
    """Gather a fleet whose queue has room for all tasks.

    Args:
        tasks: How many.
        address: Of Label Studio, and the key to it.

    Yields:
        The fleet, still empty.
    """
    names = {"RSREFSEG_QUEUE_LIMIT", "RSREFSEG_PROJECT_LIMIT", "RSREFSEG_ANSWERS_LIMIT"}
    limits = dict.fromkeys(names & set(Settings.variables()), str(2 * tasks))
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet.Fleet.gather(Path(folder), *address, RSREFSEG_LOG_LEVEL="WARNING", **limits) as ours,
    ):
        yield ours


def load_synchronously(tasks: int, address: tuple[str, str]) -> float:
    """Put the same tasks through a backend that computes while Label Studio waits, all in one call as it sends them.

    Args:
        tasks: How many.
        address: Of Label Studio, and the key to it.

    Returns:
        Tasks a second.

    Raises:
        ClickException: If not all were answered.
    """
    body = {"tasks": [{"id": task, "data": Tasks().get(task)} for task in range(1, tasks + 1)]}
    with beside("synchronous_process.py", *address, str(FAST_S)) as url:
        began = time.perf_counter()
        answer = httpx.post(f"{url}/predict", json=body, timeout=LONGEST_S, trust_env=False).raise_for_status().json()
        seconds = time.perf_counter() - began
    if len(answer["results"]) != tasks:
        raise click.ClickException("the synchronous backend did not answer all tasks")
    return tasks / seconds


def enqueue(tasks: int) -> tuple[float, float]:
    """Send a whole project through the bulk door, with nobody to work on it.

    Args:
        tasks: How many it has.

    Returns:
        Tasks a second, and bytes of Redis' memory for each.

    Raises:
        ClickException: If not all were enqueued.
    """
    with label_studio(tasks) as address, gathered(tasks, address) as ours:
        before = ours.queue.redis.info("memory")["used_memory"]
        tally = ours.run(*fleet.PRELABEL)
        after = ours.queue.redis.info("memory")["used_memory"]
    if tally["enqueued"] != tasks:
        raise click.ClickException(f"of {tasks} tasks {tally['enqueued']} were enqueued")
    return tasks / tally["seconds"], (after - before) / tasks


def empty_job_ms(address: tuple[str, str]) -> float:
    """Let RQ do jobs in which nothing happens.

    Args:
        address: Of Label Studio, and the key to it.

    Returns:
        What RQ takes for one, in ms.
    """
    with gathered(1, address) as ours:
        queue = Queue("empty", connection=ours.queue.redis, serializer="json")
        for _ in range(EMPTY_JOBS):
            queue.enqueue("time.time")
        worker = SimpleWorker([queue], connection=ours.queue.redis, serializer="json")
        began = time.perf_counter()
        worker.work(burst=True, logging_level="WARNING")
        return 1000 * (time.perf_counter() - began) / EMPTY_JOBS


@click.command()
@click.option("--tasks", type=click.IntRange(100), default=100_000, show_default=True, help="To enqueue.")
@click.option("--each", type=click.IntRange(40), default=400, show_default=True, help="Images for one worker.")
@click.option("--workers", type=click.IntRange(2), default=8, show_default=True)
@click.option("--quick", is_flag=True, help="A tenth of everything; nothing is kept.")
def main(tasks: int, each: int, workers: int, quick: bool) -> None:
    """Measure a fleet whose models sleep."""
    if quick:
        tasks, each = tasks // 10, each // 5
    half = each // 2
    with label_studio(max(each, workers * half), max(each, workers * half)) as address:
        one = load(1, FAST_S, each, address)
        synchronous_per_s = load_synchronously(each, address)
        slow = load(1, SLOW_S, half, address)
        many = load(workers, SLOW_S, workers * half, address, with_courier=True)
        empty_ms = empty_job_ms(address)
    through, alone = bench_dispatch.measure(20 if quick else 100)
    enqueued_per_s, bytes_per_task = enqueue(tasks)
    figures = {
        "busy_share_1": round(one.per_s * FAST_S, 4),
        f"speedup_{workers}": round(many.per_s / slow.per_s, 2),
        "dispatch_ms_median": bench_dispatch.figure_of(through, alone),
        "enqueue_per_s": round(enqueued_per_s),
        "bytes_per_task": round(bytes_per_task),
        "redis_ms_per_task": round(many.redis_ms, 3),
        "delivered_per_s_1": round(many.delivered_per_s or 0, 1),
        "amortised_rq_ms": round(empty_ms * one.jobs / each, 3),
        "busy_share_1_synchronous": round(synchronous_per_s * FAST_S, 4),
        "tasks_per_s": round(one.per_s, 2),
        "tasks_per_s_official": round(synchronous_per_s, 2),
        "speedup_over_official": round(one.per_s / synchronous_per_s, 3),
    }
    details = {
        "tasks_enqueued": tasks,
        "loads": {"fast": vars(one), "slow": vars(slow), "many": vars(many)},
        "empty_job_ms": empty_ms,
        "through_s": through,
        "alone_s": alone,
    }
    keep("scaling", figures, details, quick=quick)


if __name__ == "__main__":
    main()
