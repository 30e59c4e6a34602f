"""docs/backup.md, word for word: what was copied while all runs is all there after everything was lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.factories import make_answer, make_job, make_task_corrections, make_version
from tests.with_redis.conftest import answers_in, launch_worker, requests_in, wait_for
from workers.corrections import Corrections, TaskCorrections
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.registry import Registry
from workers.settings import Settings

PAGE = Path("docs/backup.md")
WAITING = 200


def blocks(heading: str) -> list[str]:
    """The shell blocks below a heading of the page."""
    below = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", below, re.DOTALL)


def carry_out(block: str, folder: Path, data: Path, redis: Path) -> None:
    ours = {"RSREFSEG_DATA": str(data), "REDIS_DIR": str(redis)}
    subprocess.run(["bash", "-euc", block], cwd=folder, env=os.environ | ours, check=True)


def fill(queue: JobQueue, data: Path) -> TaskCorrections:
    """Requests that wait, an answer that is not delivered, a correction, two versions and a champion."""
    queue.submit([make_job(task_id) for task_id in range(WAITING)])
    queue.deliver(make_answer(make_job(9999)))
    corrected = make_task_corrections(task=7)
    Corrections(data).put(corrected)
    registry = Registry(data)
    files = data.parent / "heads"
    files.mkdir()
    (files / "heads").write_text("v1")
    for name in ("v1", "v2"):
        registry.add(make_version(name), files)
    registry.move(1, "v1", "promoted")
    return corrected


@contextmanager
def requests_coming_in(queue: JobQueue) -> Iterator[None]:
    ended = Event()

    def come() -> None:
        for task_id in range(10_000, 20_000):
            if ended.wait(0.005):
                return
            queue.submit([make_job(task_id)])

    thread = Thread(target=come)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.parametrize(("way", "embedded"), [(0, True), (1, False)], ids=["embedded", "REDIS_URL"])
def test_a_copy_of_running_processes_brings_everything_back(way: int, embedded: bool, tmp_path: Path):
    data = tmp_path / "data"
    redis = data / "redis" if embedded else tmp_path / "redis of ours"
    with EmbeddedRedis.attach(redis) as server, JobQueue.open(Settings(redis_url=server.url, data=data)) as queue:
        corrected = fill(queue, data)
        with requests_coming_in(queue):
            wait_for(lambda: len(requests_in(queue)) > WAITING + 5)
            carry_out(blocks("Back up")[way], tmp_path, data, redis)

    shutil.rmtree(data)
    shutil.rmtree(redis, ignore_errors=True)

    data = tmp_path / "another place"
    redis = data / "redis" if embedded else tmp_path / "another redis"
    carry_out(blocks("Restore")[way], tmp_path, data, redis)
    with EmbeddedRedis.attach(redis) as server:
        settings = Settings(redis_url=server.url, data=data)
        with JobQueue.open(settings) as queue:
            assert {job.task_id for job in requests_in(queue)} >= set(range(WAITING))
            assert [answer.job.task_id for answer in answers_in(queue)] == [9999]
            assert Corrections(data).get(1, 7) == corrected
            registry = Registry(data)
            assert registry.names(1) == {"v1", "v2"}
            assert registry.champion(1) == "v1"
            assert registry.has_weights(1, "v1")
            worker = launch_worker(settings, tmp_path)
            try:
                drawn = wait_for(lambda: everything_drawn(queue), 60)
            finally:
                worker.process.kill()
                worker.process.wait()
            assert drawn >= set(range(WAITING))


def everything_drawn(queue: JobQueue) -> set[int]:
    """The tasks that have an answer, once nothing waits."""
    return set() if requests_in(queue) else {answer.job.task_id for answer in answers_in(queue)}
