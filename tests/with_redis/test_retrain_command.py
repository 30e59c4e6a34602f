"""The command that asks for a training says what happens, and how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ml_backend.cli import main
from tests.factories import make_task_corrections
from tests.with_redis.conftest import wait_for
from workers.contract import Training, TrainJob
from workers.corrections import Corrections
from workers.queue import JobQueue
from workers.settings import Settings


@pytest.fixture(autouse=True)
def corrections(settings: Settings) -> Corrections:
    """Of one task, two."""
    store = Corrections(settings.data)
    store.put(make_task_corrections(corrections=2))
    return store


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    root = str(Path(__file__).parents[2])
    return kept | {"REDIS_URL": str(settings.redis_url), "RSREFSEG_DATA": str(settings.data), "PYTHONPATH": root}


@pytest.fixture
def retrain(environment: dict[str, str]) -> Callable[..., Result]:
    return lambda *options: CliRunner().invoke(main, ["retrain", "--project", "1", *options], env=environment)


@pytest.fixture
def trainer(queue: JobQueue) -> Iterator[Callable[..., None]]:
    """Ends the training that waits, as it is told."""
    threads: list[threading.Thread] = []

    def ends(stage: str, **facts: Any) -> None:
        def teach() -> None:
            waiting = wait_for(lambda: queue.trainings().get(1))
            for step in (10, 20):
                queue.keep_training(waiting.model_copy(update={"stage": "learning", "step": step, "steps": 20}))
                time.sleep(0.1)
            end = Training.model_validate({**waiting.model_dump(), "stage": stage, "at": datetime.now(UTC), **facts})
            queue.keep_training(end)

        threads.append(threading.Thread(target=teach))
        threads[-1].start()

    yield ends
    for thread in threads:
        thread.join()


def test_it_says_what_is_new_and_who_is_missing(retrain: Callable[..., Result], queue: JobQueue) -> None:
    result = retrain("--promote", "--json")
    assert json.loads(result.stdout) == {"asked": True, "new": 2, "trainers": 0, "gathered": False}
    said = " ".join(result.stderr.split())
    assert "2 corrections of project 1 are new" in said
    assert "no courier answers" in said
    assert "rsrefseg-worker run --queue train" in said
    [job] = queue.train.get_jobs()
    assert TrainJob.model_validate_json(job.args[0]) == TrainJob(project_id=1, why="asked", promote=True)
    again = retrain("--json")
    assert not json.loads(again.stdout)["asked"]
    assert "on its way already" in again.stderr


def test_without_corrections_nothing_is_asked(
    retrain: Callable[..., Result], queue: JobQueue, corrections: Corrections
) -> None:
    corrections.withdraw(1, 7)
    (queue.settings.data / "corrections/1").rmdir()
    result = retrain()
    assert result.exit_code == 2
    assert "No corrections of project 1 are here" in result.stderr
    assert queue.train.get_jobs() == []


@pytest.mark.parametrize(
    ("stage", "code", "said"),
    [
        ("promoted", 0, "tiny@1 serves project 1 now"),
        ("refused", 2, "tiny@1 was not promoted"),
        ("failed", 1, "failed"),
    ],
)
def test_who_waits_hears_how_it_ended(
    retrain: Callable[..., Result], trainer: Callable[..., None], stage: str, code: int, said: str
) -> None:
    trainer(stage, version="tiny@1", reason="It [is] so.", before=40.0, after=50.0)
    result = retrain("--wait", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)["stage"] == stage
    assert said in " ".join(result.stderr.split())
    assert "It [is] so." in " ".join(result.stderr.split())


def test_how_the_former_training_ended_is_not_how_this_one_does(
    retrain: Callable[..., Result], trainer: Callable[..., None], queue: JobQueue
) -> None:
    at = datetime.now(UTC)
    queue.keep_training(Training(project_id=1, stage="failed", why="count", began_at=at, at=at))
    queue.ask_training(TrainJob(project_id=1, why="count"))
    trainer("promoted", version="tiny@1")
    assert retrain("--wait").exit_code == 0


def test_who_waits_no_longer_leaves_the_training_running(environment: dict[str, str], queue: JobQueue) -> None:
    command = [sys.executable, "-m", "ml_backend.cli", "retrain", "--project", "1", "--wait"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        wait_for(lambda: queue.train.get_jobs())
        time.sleep(1)
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "The training goes on" in said
    assert len(queue.train.get_jobs()) == 1
