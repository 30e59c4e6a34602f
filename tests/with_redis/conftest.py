"""A real Redis for each test, and real worker processes with a model that does as it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.utils import as_text

from tests.conftest import TOKEN, ImageHost
from tests.stand_in_label_studio import StandInLabelStudio, stand_in_label_studio
from workers.contract import Answer, Chunk, PredictJob
from workers.queue import JobQueue, connect
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings

PATIENCE_S = 20.0

CONFIG = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" value="$expression"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""


def wait_for(look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """What `look` sees, once it sees something."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return seen


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis.start(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def label_studio() -> Iterator[StandInLabelStudio]:
    with stand_in_label_studio() as held:
        yield held


@pytest.fixture
def settings(redis_server: EmbeddedRedis, image_host: ImageHost, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_server.url,
        data=tmp_path,
        label_studio_url=image_host.url,
        label_studio_api_key=TOKEN,
        interactive_wait_s=5,
    )


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    with connect(str(settings.redis_url)) as redis:
        yield JobQueue(redis, settings)


def answers_in(queue: JobQueue) -> list[Answer]:
    """What waits for the courier."""
    return [Answer.model_validate_json(job.args[0]) for job in queue.label_studio.get_jobs()]


def requests_in(queue: JobQueue) -> list[PredictJob]:
    """What waits for a worker, in the order in which one would take it if project 1 were alone."""
    line = [as_text(chunk_id) for chunk_id in queue.redis.lrange("rsrefseg:line:1", 0, -1)]
    requests: list[PredictJob] = []
    for job in Job.fetch_many([*queue.gpu.get_job_ids(), *line], connection=queue.redis, serializer="json"):
        assert job is not None
        if job.id.startswith("reply-"):
            requests.append(PredictJob.model_validate_json(job.args[0]))
        else:
            requests += Chunk.model_validate_json(job.args[0]).requests
    return requests


@dataclass
class WorkerProcess:
    """A worker in a process of its own."""

    process: subprocess.Popen[bytes]
    diary: Path
    """A line for each expression that a model began with, of all workers of the test."""
    log: Path

    def began(self) -> list[str]:
        return self.diary.read_text().splitlines() if self.diary.exists() else []

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def launch_worker(settings: Settings, folder: Path, number: int = 0) -> WorkerProcess:
    """A worker on the Redis of some settings that writes its log and diary into a folder."""
    log = folder / f"worker{number}.log"
    environ = {
        "REDIS_URL": str(settings.redis_url),
        "RSREFSEG_DATA": str(settings.data),
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": settings.label_studio_api_key.get_secret_value(),
    }
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_"))}
    script = Path(__file__).with_name("worker_process.py")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder / "diary")],
            stderr=file,
            env=keep | environ | {"OMP_NUM_THREADS": "1"},
        )
    return WorkerProcess(process, folder / "diary", log)


@pytest.fixture
def start_worker(settings: Settings, queue: JobQueue, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        started.append(launch_worker(settings, tmp_path, len(started)))
        wait_for(lambda: "Listening on" in started[-1].log.read_text())
        return started[-1]

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.wait()
