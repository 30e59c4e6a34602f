"""`rsrefseg-worker run` as an operator and systemd treat it; the model sleeps, everything else is real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq import Queue, SimpleWorker
from rq.command import send_stop_job_command
from rq.worker import WorkerStatus

from tests.conftest import ImageHost
from tests.factories import make_job, make_png
from tests.with_redis.conftest import answers_in, wait_for
from workers.contract import TrainJob
from workers.queue import JobQueue
from workers.runs import FOLDER as RUNS
from workers.settings import Settings

IMAGE = "/data/upload/1/a.png"

Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run(settings: Settings, image_host: ImageHost, tmp_path: Path) -> Iterator[Run]:
    image_host.pages[IMAGE] = 200, make_png((40, 60))
    started: list[subprocess.Popen[bytes]] = []

    def run(*options: str, **environ: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "workers.cli", "run", *options]
        named = {
            "REDIS_URL": str(settings.redis_url),
            "LABEL_STUDIO_URL": settings.label_studio_url,
            "LABEL_STUDIO_API_KEY": settings.label_studio_api_key.get_secret_value(),
        }
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen(command, stderr=log, env=os.environ | named | environ))
        return started[-1]

    yield run
    for process in started:
        process.kill()  # Its workers see that, and leave.
        process.wait()


def workers_on(queue: JobQueue) -> list[SimpleWorker]:
    return list(SimpleWorker.all(connection=queue.redis, serializer="json"))


def busy_worker(queue: JobQueue) -> SimpleWorker | None:
    return next((worker for worker in workers_on(queue) if worker.get_state() == WorkerStatus.BUSY), None)


def test_systemd_and_the_supervisor_both_ask_a_worker_to_leave_and_that_is_once(
    queue: JobQueue, image_host: ImageHost, run: Run
) -> None:
    queue.submit([make_job(image_uri=IMAGE)])
    supervisor = run("--simulate", "5")
    wait_for(lambda: image_host.asked, timeout_s=120)
    worker = wait_for(lambda: busy_worker(queue))
    assert worker.pid != supervisor.pid
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(1.2)  # RQ would count a SIGTERM so much later as a second one.
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
    assert len(answers_in(queue)) == 1
    assert workers_on(queue) == []


def test_a_second_sigterm_leaves_the_request_in_hand_to_others(queue: JobQueue, run: Run) -> None:
    queue.submit([make_job(image_uri=IMAGE)])
    supervisor = run("--simulate", "50")
    wait_for(lambda: busy_worker(queue), timeout_s=120)
    supervisor.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    at = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 143
    assert time.monotonic() - at < 20
    run("--simulate", "0.05")
    wait_for(lambda: answers_in(queue), timeout_s=120)


def test_a_worker_without_its_supervisor_ends_the_request_in_hand_and_leaves(
    queue: JobQueue, image_host: ImageHost, run: Run
) -> None:
    queue.submit([make_job(image_uri=IMAGE)])
    supervisor = run("--simulate", "3")
    wait_for(lambda: image_host.asked, timeout_s=120)
    supervisor.kill()
    wait_for(lambda: not workers_on(queue), timeout_s=60)
    assert len(answers_in(queue)) == 1


def test_a_worker_that_makes_no_progress_is_killed_and_another_takes_its_place(
    queue: JobQueue, run: Run, tmp_path: Path
) -> None:
    queue.submit([make_job(image_uri=IMAGE)])
    shorter = {f"RSREFSEG_{name}": "3" for name in ("IMAGE_TIMEOUT_S", "PREDICT_TIMEOUT_S")}
    run("--simulate", "1000", RSREFSEG_HUNG_S="4", RSREFSEG_STOP_S="1", **shorter)
    hung = wait_for(lambda: busy_worker(queue), timeout_s=120)
    os.kill(hung.pid, signal.SIGSTOP)  # Deaf to alarms, as in a kernel that never returns.
    wait_for(lambda: {worker.pid for worker in workers_on(queue)} - {hung.pid}, timeout_s=120)
    assert "worker hangs, so it is killed" in (tmp_path / "log").read_text()


def test_a_worker_can_be_kept_for_those_requests_that_a_person_waits_for(queue: JobQueue, run: Run) -> None:
    interactive = Queue("interactive", connection=queue.redis, serializer="json")
    run("--simulate", "0.05", "--queue", "interactive")
    wait_for(lambda: SimpleWorker.count(queue=interactive) == 1, timeout_s=120)
    assert SimpleWorker.count(queue=queue.gpu) == 0


def test_a_worker_can_be_kept_for_training_and_its_jobs_come_again_when_it_dies(
    queue: JobQueue, run: Run, tmp_path: Path
) -> None:
    notes = tmp_path / RUNS / "7" / "1" / "run.json"
    notes.parent.mkdir(parents=True)
    os.mkfifo(notes)  # Whoever reads it waits for ever.
    supervisor = run("--gpus", "cpu", "--queue", "train", RSREFSEG_DATA=str(tmp_path))
    wait_for(lambda: SimpleWorker.count(queue=queue.train) == 1, timeout_s=120)
    assert queue.model_version() is None, "it has none"
    assert queue.ask_training(TrainJob(project_id=7, why="asked"))
    worker = wait_for(lambda: busy_worker(queue))
    assert worker.get_current_job_id()
    os.kill(worker.pid, signal.SIGKILL)
    again = wait_for(lambda: other if (other := busy_worker(queue)) and other.pid != worker.pid else None, 120)
    send_stop_job_command(queue.redis, again.get_current_job_id(), serializer="json")
    wait_for(lambda: busy_worker(queue) is None)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
