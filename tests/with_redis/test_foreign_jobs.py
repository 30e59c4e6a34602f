"""Whoever may write to Redis may make work for us, and that is all: nothing that they name is called or unpickled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Callback, Queue, SimpleWorker
from rq.job import Job, JobStatus
from rq.webhook import Webhook

from tests.conftest import ImageHost
from workers.leased import LeasedWorker, Pace, Stop
from workers.own_job import CALLBACKS, FUNCTIONS
from workers.queue import GPU, JobQueue
from workers.upkeep import bring_back

CALLED: list[str] = []


def call(*given: Any) -> None:
    """What a forged job names."""
    CALLED.append(repr(given))


HERE = f"{__name__}.call"


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    CALLED.clear()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(queue: Queue) -> None:
    """Let a worker of ours take what is there."""
    LeasedWorker(queue, Stop(), Pace()).work(burst=True, logging_level=None)


def forged(queue: JobQueue, function: str, *args: Any, **how: Any) -> Job:
    """What somebody with nothing but RQ writes."""
    return Queue(GPU, connection=queue.redis, serializer="json").enqueue(function, *args, **how)


def reason_of(job: Job) -> str:
    assert job.get_status(refresh=True) == JobStatus.FAILED
    return str(job.latest_result().exc_string)


def test_rq_itself_would_call_anything(queue: JobQueue) -> None:
    forged(queue, HERE, 1, on_success=Callback(HERE))
    SimpleWorker([Queue(GPU, connection=queue.redis, serializer="json")], serializer="json").work(burst=True)
    assert len(CALLED) == 2


@pytest.mark.parametrize(
    "function", ["os.system", HERE, "subprocess.getoutput", "workers.queue.connect", "builtins.eval"]
)
def test_a_job_that_names_a_function_that_is_not_ours_fails_with_the_reason(
    queue: JobQueue, tmp_path: Path, function: str
) -> None:
    job = forged(queue, function, f"touch {tmp_path / 'marker'}")
    run(queue.gpu)
    assert f"calls '{function}', which is none of this project's" in reason_of(job)
    assert not (tmp_path / "marker").exists()
    assert CALLED == []


@pytest.mark.parametrize("when", ["on_success", "on_failure", "on_stopped"])
def test_a_job_of_ours_that_names_a_foreign_callback_is_not_run(queue: JobQueue, when: str) -> None:
    job = forged(queue, "workers.predict.reply", "{}", **{when: Callback(HERE)})
    run(queue.gpu)
    assert f"names the callback '{HERE}'" in reason_of(job)
    assert CALLED == []


def test_a_method_of_what_a_job_brings_along_is_not_called(queue: JobQueue) -> None:
    job = forged(queue, "workers.predict.reply", "{}")
    job._instance, job._func_name, job._data = (
        "{0.__class__}",
        "format",
        job.serializer.dumps(("format", "{}", [1], {})),
    )
    job.save()
    run(queue.gpu)
    assert "calls 'format'" in reason_of(job)


def test_a_pickled_job_fails_and_is_not_unpickled(queue: JobQueue, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    job = Queue(GPU, connection=queue.redis).enqueue("workers.predict.work", Trap(marker))
    run(queue.gpu)
    assert "DeserializationError" in reason_of(Job(job.id, connection=queue.redis, serializer="json"))
    assert not marker.exists()
    assert Job.fetch(job.id, connection=queue.redis).args  # As whoever reads it by RQ's own default would.
    assert marker.exists(), "the trap works"


def test_a_callback_is_not_called_either_for_a_worker_that_seems_to_have_died(queue: JobQueue) -> None:
    job = forged(queue, "workers.predict.work", "{}", on_failure=Callback(HERE))
    queue.gpu.remove(job.id)
    job.set_status(JobStatus.STARTED)
    queue.redis.zadd(queue.gpu.started_job_registry.key, {f"{job.id}:execution": time.time() - 60})
    bring_back(queue.gpu, LeasedWorker(queue.gpu, Stop(), Pace()), 5)
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert CALLED == []


def test_nobody_is_told_of_a_job_by_a_webhook_that_it_names(queue: JobQueue, image_host: ImageHost) -> None:
    webhook = Webhook(f"{image_host.url}/told", "failed")
    job = forged(queue, HERE, webhooks=[webhook])
    run(queue.gpu)
    assert "none of this project's" in reason_of(job)
    assert image_host.asked == []
    job.send_webhooks(JobStatus.FAILED)
    assert image_host.asked == ["/told"], "RQ itself would"


def test_what_jobs_may_call_is_there_and_is_what_is_asked_for() -> None:
    sources = "".join(path.read_text("utf-8") for path in Path("workers").glob("*.py") if path.name != "own_job.py")
    for name in FUNCTIONS | CALLBACKS:
        module, _, function = name.rpartition(".")
        assert f"def {function}(" in Path(*module.split(".")).with_suffix(".py").read_text("utf-8")
        assert f'"{name}"' in sources
