"""A whole project goes through the bulk door: once each, in spite of outages, and without a memory of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml_backend.errors import KeyRefused, LabelStudioAway, NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.prelabel import NO_VERSION, Prelabel
from ml_backend.web import create_app
from tests.factories import make_image_uri, make_job
from tests.stand_in_label_studio import (
    KEY,
    Carry,
    StandInLabelStudio,
    answers,
    hangs_up,
)
from tests.with_redis.conftest import CONFIG, requests_in, wait_for
from workers.contract import PredictJob
from workers.queue import JobQueue
from workers.settings import Settings

VERSION = "tiny@1"
START_S = 120.0
"""Longest that processes take to start on a machine that has other things to do."""


@pytest.fixture
def label_studio(label_studio: StandInLabelStudio) -> StandInLabelStudio:
    label_studio.config = CONFIG
    label_studio.tasks = set(range(1, 9))
    label_studio.page_limit = 3
    return label_studio


@pytest.fixture
def served(queue: JobQueue) -> JobQueue:
    """A queue to which a worker came once."""
    queue.announce(VERSION)
    return queue


def prelabel(queue: JobQueue, label_studio: StandInLabelStudio, project_id: int = 1, patience_s: float = 2) -> Prelabel:
    door = LabelStudio(label_studio.url, label_studio.key, timeout_s=2)
    return Prelabel(queue, door, project_id, Console(file=io.StringIO(), width=1000), patience_s)


def said(work: Prelabel) -> str:
    return work._console.file.getvalue()  # type: ignore[attr-defined]


def run(queue: JobQueue, label_studio: StandInLabelStudio, limit: int | None = None) -> dict[str, Any]:
    """What one run came to, without the noughts."""
    work = prelabel(queue, label_studio)
    work.run(limit)
    tally = work.tally
    assert tally.tasks == tally.enqueued + tally.already + tally.in_flight + tally.unaskable
    counts = {"enqueued": tally.enqueued, "already": tally.already, "in_flight": tally.in_flight}
    counts |= {"unaskable": tally.unaskable, "complete": tally.complete}
    return {name: count for name, count in counts.items() if count}


def waiting(queue: JobQueue) -> list[PredictJob]:
    return requests_in(queue)


def test_what_has_no_prediction_of_the_served_version_is_enqueued(
    served: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.predictions = {
        1: {"id": 1, "task": 2, "model_version": VERSION, "result": []},
        2: {"id": 2, "task": 5, "model_version": "tiny@10", "result": []},
        3: {"id": 3, "task": 6, "model_version": "tiny@0", "result": []},
        4: {"id": 4, "task": 6, "model_version": VERSION, "result": []},
    }
    assert run(served, label_studio) == {"enqueued": 6, "already": 2, "complete": True}
    assert [job.task_id for job in waiting(served)] == [1, 3, 4, 5, 7, 8]
    assert {job.model_version for job in waiting(served)} == {VERSION}
    assert label_studio.calls.count("GET /api/tasks/") == 3


def test_a_second_run_finds_everything_on_its_way(served: JobQueue, label_studio: StandInLabelStudio) -> None:
    run(served, label_studio)
    assert run(served, label_studio) == {"in_flight": 8, "complete": True}
    assert len(waiting(served)) == 8


def test_a_limit_bounds_what_is_enqueued_and_the_next_run_goes_on(
    served: JobQueue, label_studio: StandInLabelStudio
) -> None:
    assert run(served, label_studio, limit=5) == {"enqueued": 5}
    assert run(served, label_studio, limit=2) == {"enqueued": 2, "in_flight": 5}
    assert run(served, label_studio, limit=2) == {"enqueued": 1, "in_flight": 7, "complete": True}


def test_a_task_that_predict_took_is_on_its_way(
    served: JobQueue, settings: Settings, label_studio: StandInLabelStudio
) -> None:
    data = {"image": make_image_uri(), "expression": "the ship"}
    body = {"tasks": [{"id": n, "data": data} for n in (1, 2)], "project": "1.17", "label_config": CONFIG}
    assert create_app(settings, served).test_client().post("/predict", json=body).status_code == 200
    assert run(served, label_studio) == {"enqueued": 6, "in_flight": 2, "complete": True}


def test_the_field_that_setup_named_holds_the_expression(
    served: JobQueue, settings: Settings, label_studio: StandInLabelStudio
) -> None:
    body = {"project": "1.17", "schema": CONFIG, "extra_params": {"expression_field": "caption"}}
    create_app(settings, served).test_client().post("/setup", json=body)
    label_studio.tasks = {1}
    label_studio.data = {1: {"image": make_image_uri(), "expression": "the ship", "caption": "the pier"}}
    run(served, label_studio)
    assert [ask.expression for job in waiting(served) for ask in job.asks] == ["the pier"]


def test_tasks_without_a_question_are_listed_until_they_are_repaired(
    served: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.data = {3: {"image": make_image_uri()}, 4: {"expression": "the ship"}}
    assert run(served, label_studio) == {"enqueued": 6, "unaskable": 2, "complete": True}
    assert {failure.task_id for failure in served.failures(1)} == {3, 4}
    label_studio.data.pop(3)
    assert run(served, label_studio) == {"enqueued": 1, "in_flight": 6, "unaskable": 1, "complete": True}
    assert {failure.task_id for failure in served.failures(1)} == {4}


def test_tasks_deleted_meanwhile_hide_no_others(served: JobQueue, label_studio: StandInLabelStudio) -> None:
    def deletes_first(carry: Carry) -> Any:
        label_studio.tasks -= {1, 2}
        return carry()

    label_studio.misbehave("GET", lambda carry: carry(), deletes_first)
    run(served, label_studio)
    assert [job.task_id for job in waiting(served)] == list(range(1, 9))


def test_a_label_studio_that_stumbles_is_asked_again(served: JobQueue, label_studio: StandInLabelStudio) -> None:
    label_studio.misbehave("GET", answers(500), hangs_up, answers(502))
    work = prelabel(served, label_studio, patience_s=30)
    work.run()
    assert work.tally.enqueued == 8
    assert "answered 500" in said(work)


def test_a_label_studio_that_stays_away_is_said_in_a_sentence(
    served: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.misbehave("GET", lambda carry: carry(), *[answers(503)] * 50)
    work = prelabel(served, label_studio)
    with pytest.raises(LabelStudioAway, match="answered 503"):
        work.run()
    assert (work.tally.enqueued, work.tally.complete) == (3, False)


def test_a_project_that_is_not_there_and_a_key_that_will_not_do_are_named_at_once(
    served: JobQueue, label_studio: StandInLabelStudio
) -> None:
    with pytest.raises(NotFound, match="no project 99"):
        prelabel(served, label_studio, project_id=99).run()
    work = prelabel(served, label_studio)
    label_studio.key = "another"
    with pytest.raises(KeyRefused, match="LABEL_STUDIO_API_KEY"):
        work.run()


def test_without_a_worker_ever_everything_is_enqueued_and_that_is_said(
    queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    work = prelabel(queue, label_studio)
    work.run()
    assert work.tally.enqueued == 8
    assert NO_VERSION in said(work)


def test_a_full_queue_is_waited_for(served: JobQueue, settings: Settings, label_studio: StandInLabelStudio) -> None:
    small = JobQueue(served.redis, settings.model_copy(update={"queue_limit": 4}))
    work = prelabel(small, label_studio)
    most: list[int] = []
    taken: list[int] = []
    ended = threading.Event()

    def take_one_after_the_other() -> None:
        wait_for(lambda: "would pass the limit" in said(work))
        while not ended.wait(0.05):
            most.append(small.counts()["waiting"])
            if left := [request for request in waiting(small) if request.task_id not in taken]:
                taken.append(left[0].task_id)
                small.settle(left[0])

    worker = threading.Thread(target=take_one_after_the_other)
    worker.start()
    try:
        work.run()
    finally:
        ended.set()
        worker.join()
    assert work.tally.enqueued == 8
    assert max(most) <= 4


# From here on with the command, and with worker and courier in processes of their own.

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(settings: Settings, label_studio: StandInLabelStudio) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []
    ours = {
        "REDIS_URL": str(settings.redis_url),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "OMP_NUM_THREADS": "1",
    }

    def start_one(*command: str, **environ: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *command], env=os.environ | ours | environ, **pipes))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_whoever_waits_learns_what_became_of_each_task(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.data = {3: {"image": "data:image/png;base64,AAAA", "expression": "the ship"}}
    start("-m", "workers.cli", "run", "--simulate", "0.01")
    start(str(Path(__file__).with_name("courier_process.py")))
    wait_for(queue.model_version, START_S)
    command = start("-m", "ml_backend.cli", "prelabel", "--project", "1", "--wait", "--json")
    out, err = command.communicate(timeout=START_S)
    tally = json.loads(out)
    assert command.returncode == 1, "a task failed"
    assert tally.pop("seconds") > 0
    assert tally == {
        "project": 1,
        "model_version": "simulated@0.01s",
        "tasks": 8,
        "enqueued": 8,
        "already": 0,
        "in_flight": 0,
        "unaskable": 0,
        "delivered": 7,
        "failed": 1,
        "complete": True,
    }
    assert sorted(one["task"] for one in label_studio.predictions.values()) == [1, 2, 4, 5, 6, 7, 8]
    assert "8/8" in err

    label_studio.data = {}
    command = start("-m", "ml_backend.cli", "prelabel", "--project", "1", "--wait")
    out, err = command.communicate(timeout=START_S)
    assert command.returncode == 0, err
    assert "1 enqueued, 7 have a prediction of simulated@0.01s. 1 masks delivered, 0 failed." in out


def test_ctrl_c_says_what_was_done_and_that_the_same_command_goes_on(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    queue.submit([make_job(100)])
    command = start("-m", "ml_backend.cli", "prelabel", "--project", "1", "--json", RSREFSEG_QUEUE_LIMIT="5")
    wait_for(lambda: queue.counts()["waiting"] == 4, START_S)
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=START_S)
    assert command.returncode == 130
    assert "The same command goes on" in err
    assert "Traceback" not in err
    assert (json.loads(out)["enqueued"], json.loads(out)["complete"]) == (3, False)


def test_a_command_that_cannot_go_on_says_so_in_one_sentence(start: Start) -> None:
    command = start("-m", "ml_backend.cli", "prelabel", "--project", "99")
    _, err = command.communicate(timeout=START_S)
    assert command.returncode == 2
    assert "Traceback" not in err
    assert "Error: Label Studio at" in err
    assert "no project 99" in err
