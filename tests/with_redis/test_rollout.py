"""Label Studio shows what the registry says, whoever moves the alias when, and whoever dies over it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_backend.courier import Courier
from ml_backend.errors import LabelStudioAway
from ml_backend.label_studio import LabelStudio
from ml_backend.rollout import Follower
from tests.factories import make_answer, make_job, make_version
from tests.stand_in_label_studio import KEY, StandInLabelStudio, answers, stand_in_label_studio
from tests.with_redis.conftest import requests_in
from tests.with_redis.test_courier import HURRY
from workers.queue import JobQueue
from workers.registry import Registry, Why
from workers.settings import Settings

BASE, CHAMPION, FOREIGN = "tiny@0", "tiny@1", "somebody's"
TASKS = range(1, 8)

PROGRAM = """
import os
from ml_backend import rollout
from ml_backend.label_studio import LabelStudio
from workers import rollouts
from workers.queue import JobQueue
from workers.registry import Registry, Why
from workers.settings import Settings
settings = Settings.load()
def die(*_, **__):
    os.kill(os.getpid(), 9)
with JobQueue.open(settings) as queue:
    follower = rollout.Follower(queue, LabelStudio.of(settings), Registry(settings.data))
"""


@pytest.fixture
def label_studio() -> Iterator[StandInLabelStudio]:
    """Seven tasks with a prediction of the base; the first also has a foreign one, two are annotated, one skipped."""
    with stand_in_label_studio() as held:
        held.tasks = set(TASKS)
        held.page_limit = 3
        held.predictions = {number: prediction(number, number, BASE) for number in TASKS}
        held.predictions[8] = prediction(8, 1, FOREIGN)
        held.project = {"model_version": BASE}
        held.annotate(2, {"id": 1, "parent_prediction": 2})
        held.annotate(5, {"id": 2, "parent_prediction": 5})
        held.annotate(6, {"id": 3, "was_cancelled": True})
        yield held


def prediction(number: int, task: int, version: str) -> dict[str, Any]:
    return {"id": number, "task": task, "project": 1, "model_version": version, "result": [], "score": 0.5}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"replaced_s": 0.0})


@pytest.fixture
def registry(settings: Settings, tmp_path: Path) -> Registry:
    registry = Registry(settings.data)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for version in (CHAMPION, "tiny@2"):
        registry.add(make_version(version), checkpoint)
    return registry


@pytest.fixture
def follower(queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry) -> Follower:
    queue.announce(BASE)
    return make_follower(queue, label_studio, registry)


def make_follower(queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry) -> Follower:
    return Follower(queue, LabelStudio(label_studio.url, KEY, timeout_s=10), registry)


def draw(queue: JobQueue, label_studio: StandInLabelStudio, version: str | None = None) -> list[int]:
    """Answer all that waits, by the version that is expected or by another, and deliver it; says which tasks."""
    requests = requests_in(queue)
    queue.gpu.empty()
    queue.redis.delete("rsrefseg:line:1")
    courier = Courier(queue, LabelStudio(label_studio.url, KEY, timeout_s=10), HURRY)
    for request in requests:
        courier.deliver(make_answer(request, model_version=version or request.model_version))
    return sorted(request.task_id for request in requests)


def versions(label_studio: StandInLabelStudio) -> dict[int, set[str]]:
    """Of the predictions of each task, of which no version is there twice."""
    found: dict[int, set[str]] = {number: set() for number in label_studio.tasks}
    for one in label_studio.predictions.values():
        assert one["model_version"] not in found[one["task"]]
        found[one["task"]].add(one["model_version"])
    return found


def follow(follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio) -> None:
    """All of it."""
    follower.round()
    draw(queue, label_studio)
    follower.round()
    follower.round()


AFTERWARDS = {1: {CHAMPION, FOREIGN}, 2: {BASE}, 3: {CHAMPION}, 4: {CHAMPION}, 5: {BASE}, 6: {BASE}, 7: {CHAMPION}}


def test_a_promotion_has_tasks_that_nobody_annotated_drawn_again_and_shown_and_older_predictions_of_ours_removed(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    before = {number: dict(some[0]) for number, some in label_studio.annotations.items()}
    registry.move(1, CHAMPION, "promoted")
    follower.round()
    assert queue.model_version(1) == CHAMPION
    assert (versions(label_studio)[3], label_studio.project["model_version"]) == ({BASE}, BASE)
    assert draw(queue, label_studio) == [1, 3, 4, 7]
    assert versions(label_studio)[3] == {BASE, CHAMPION}
    follower.round()
    assert label_studio.project["model_version"] == CHAMPION
    follower.round()
    assert versions(label_studio) == AFTERWARDS
    assert {number: some[0] for number, some in label_studio.annotations.items()} == before
    label_studio.calls.clear()
    follower.round()
    assert label_studio.calls == []


def test_a_rollback_brings_the_former_version_back(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follow(follower, queue, label_studio)
    registry.move(1, registry.before(1), "rolled back")
    follow(follower, queue, label_studio)
    assert versions(label_studio) == {number: {BASE, FOREIGN} if number == 1 else {BASE} for number in TASKS}
    assert label_studio.project["model_version"] == BASE
    assert queue.model_version(1) == BASE


@pytest.mark.parametrize("why", ["promoted", "rolled back"])
def test_what_takes_long_is_shown_before_all_is_drawn_and_at_once_what_was_taken_back(
    follower: Follower,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    why: Why,
) -> None:
    monkeypatch.setattr(f"ml_backend.rollout.{'SHOWN' if why == 'promoted' else 'TAKEN_BACK'}_AFTER", timedelta())
    registry.move(1, CHAMPION, why)
    follower.round()
    assert label_studio.project["model_version"] == BASE, "there is none of it to be shown"
    Courier(queue, LabelStudio(label_studio.url, KEY, timeout_s=10), HURRY).deliver(
        make_answer(requests_in(queue)[1], model_version=CHAMPION)
    )
    follower.round()
    assert label_studio.project["model_version"] == CHAMPION
    assert sorted(queue.projects()) == [1], "others are on their way"
    draw(queue, label_studio)
    follower.round()
    assert versions(label_studio) == AFTERWARDS


def test_a_second_promotion_before_the_first_is_through_ends_the_first(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follower.round()
    registry.move(1, "tiny@2", "promoted")
    follower.round()
    assert {request.model_version for request in requests_in(queue)} == {CHAMPION, "tiny@2"}
    draw(queue, label_studio)
    follower.round()
    follower.round()
    assert label_studio.project["model_version"] == "tiny@2"
    assert versions(label_studio)[3] == {"tiny@2"}


def test_the_base_is_what_workers_announced_and_no_project_of_its_own(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    queue.announce(CHAMPION)  # by a worker that was started on a project's version
    registry.move(1, "tiny@2", "promoted")
    registry.move(1, None, "rolled back")
    label_studio.predictions = {}
    follower.round()
    assert {request.model_version for request in requests_in(queue)} == {BASE}


def test_what_redis_lost_is_told_to_it_again_and_draws_nothing_twice(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follow(follower, queue, label_studio)
    queue.redis.flushall()
    queue.announce(BASE)
    follower.round()
    assert queue.model_version(1) == CHAMPION
    assert requests_in(queue) == []
    follower.round()
    assert versions(label_studio) == AFTERWARDS


def test_a_task_that_somebody_has_begun_keeps_the_prediction_they_began_from(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    label_studio.drafts = {3}
    registry.move(1, CHAMPION, "promoted")
    follower.round()
    draw(queue, label_studio)
    label_studio.annotate(4, {"id": 9, "parent_prediction": 4})
    follower.round()
    follower.round()
    found = versions(label_studio)
    assert (found[3], found[4], found[7]) == ({BASE, CHAMPION}, {BASE, CHAMPION}, {CHAMPION})


def test_a_replaced_prediction_stays_for_those_who_have_it_open(
    queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    queue.settings = queue.settings.model_copy(update={"replaced_s": 1000.0})
    queue.announce(BASE)
    registry.move(1, CHAMPION, "promoted")
    follow(make_follower(queue, label_studio, registry), queue, label_studio)
    assert versions(label_studio)[3] == {BASE, CHAMPION}
    assert label_studio.project["model_version"] == CHAMPION


def test_a_late_answer_of_the_former_version_is_removed_too(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follow(follower, queue, label_studio)
    late = Courier(queue, LabelStudio(label_studio.url, KEY, timeout_s=10), HURRY)
    late.deliver(make_answer(make_job(3), model_version=BASE))
    assert versions(label_studio)[3] == {BASE, CHAMPION}
    follower.round()
    assert versions(label_studio)[3] == {CHAMPION}


@pytest.mark.parametrize(
    ("project", "shown"),
    [
        ({"model_version": FOREIGN}, FOREIGN),
        ({"model_version": "", "show_collab_predictions": False}, ""),
        ({"model_version": ""}, CHAMPION),
        ({"model_version": "RSRefSeg"}, CHAMPION),
    ],
    ids=["somebody chose another", "hidden", "nobody chose", "our backend's title"],
)
def test_what_somebody_chose_to_show_is_left_alone(
    follower: Follower,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    registry: Registry,
    project: dict[str, Any],
    shown: str,
) -> None:
    label_studio.backends = [{"id": 1, "url": "http://127.0.0.1:9090", "title": "RSRefSeg"}]
    label_studio.project = project
    registry.move(1, CHAMPION, "promoted")
    follow(follower, queue, label_studio)
    assert label_studio.project["model_version"] == shown


def test_where_every_task_is_annotated_nothing_changes(
    follower: Follower,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for number in TASKS:
        label_studio.annotate(number, {"id": number})
    registry.move(1, CHAMPION, "promoted")
    follow(follower, queue, label_studio)
    assert label_studio.project["model_version"] == BASE
    assert "nothing to show" in caplog.messages
    label_studio.calls.clear()
    follower.round()
    assert label_studio.calls == []


def test_a_version_that_no_worker_draws_by_is_tried_on_one_task_until_one_does(
    follower: Follower,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    registry: Registry,
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follower.round()
    assert draw(queue, label_studio, BASE) == [1, 3, 4, 7]
    follower.round()
    follower.round()
    assert requests_in(queue) == []
    assert label_studio.project["model_version"] == BASE
    sooner(follower)
    follower.round()
    assert draw(queue, label_studio) == [1]
    for _ in range(2):
        follow(follower, queue, label_studio)
    assert versions(label_studio) == AFTERWARDS
    assert label_studio.project["model_version"] == CHAMPION


def sooner(follower: Follower) -> None:
    """In place of waiting for a minute."""
    rollout = follower._rollouts.get(1)
    assert rollout is not None
    assert rollout.not_before is not None
    follower._rollouts.keep(1, rollout.but(not_before=None))


def test_a_full_queue_is_waited_for(
    queue: JobQueue, settings: Settings, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    label_studio.page_limit = 200
    queue.settings = settings.model_copy(update={"project_limit": 2})
    queue.announce(BASE)
    follower = make_follower(queue, label_studio, registry)
    registry.move(1, CHAMPION, "promoted")
    drawn: list[int] = []
    for _ in range(4):
        follower.round()
        drawn += draw(queue, label_studio)
    follower.round()
    follower.round()
    assert drawn == [1, 3, 4, 7]
    assert versions(label_studio) == AFTERWARDS


def test_a_label_studio_that_is_away_in_between_changes_nothing_of_the_outcome(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    broken = 0
    label_studio.misbehave("DELETE", answers(503))
    for number in range(8):
        label_studio.away = answers(503) if number % 2 == 0 else None
        try:
            follower.round()
        except LabelStudioAway:
            broken += 1
        if number == 3:
            draw(queue, label_studio)
    assert broken == 4
    assert versions(label_studio) == AFTERWARDS


@pytest.mark.parametrize(
    "when",
    [
        "rollout.take_in = die",
        "take_in = rollout.take_in; rollout.take_in = lambda *a, **k: (take_in(*a, **k), die())",
        "rollouts.Rollouts.keep = die",
        "rollout.Wiring.change_project = die",
        "change = rollout.Wiring.change_project\n"
        "    rollout.Wiring.change_project = lambda *a, **k: (change(*a, **k), die())",
        "LabelStudio.delete_prediction = die",
        "rollouts.Rollouts.removed = die",
    ],
)
def test_whoever_is_killed_in_the_middle_leaves_it_to_be_finished(
    follower: Follower,
    queue: JobQueue,
    settings: Settings,
    label_studio: StandInLabelStudio,
    registry: Registry,
    when: str,
) -> None:
    registry.move(1, CHAMPION, "promoted")
    rounds = "follower.round()" if "take_in" in when or "keep" in when else ""
    if not rounds:
        follower.round()
        draw(queue, label_studio)
        rounds = "follower.round(); follower.round()"
    killed = run(settings, label_studio, when, rounds)
    assert killed.wait(60) == -signal.SIGKILL
    queue.redis.delete("rsrefseg:rolling-out:1")  # in place of waiting for it to run out
    for _ in range(2):
        follow(follower, queue, label_studio)
    assert versions(label_studio) == AFTERWARDS
    assert label_studio.project["model_version"] == CHAMPION


def run(settings: Settings, label_studio: StandInLabelStudio, *lines: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    ours = {
        "REDIS_URL": str(settings.redis_url),
        "RSREFSEG_DATA": str(settings.data),
        "RSREFSEG_REPLACED_S": "0",
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    program = PROGRAM + "".join(f"    {line}\n" for line in lines)
    return subprocess.Popen([sys.executable, "-c", program], env=kept | ours)


class BreaksOverOneProject(LabelStudio):
    """Label Studio answers 500 about project 0."""

    def label_config(self, project_id: int) -> str:
        if project_id == 0:
            raise LabelStudioAway("Label Studio answered 500.", status=500)
        return super().label_config(project_id)


def test_a_project_that_label_studio_breaks_over_keeps_no_other_waiting(
    queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry, tmp_path: Path
) -> None:
    queue.announce(BASE)
    registry.add(make_version("tiny@3", project_id=0), tmp_path / "checkpoint")
    registry.move(0, "tiny@3", "promoted")
    registry.move(1, CHAMPION, "promoted")
    follower = Follower(queue, BreaksOverOneProject(label_studio.url, KEY, timeout_s=10), registry)
    for _ in range(3):
        with pytest.raises(LabelStudioAway):
            follower.round()
        draw(queue, label_studio)
    assert versions(label_studio) == AFTERWARDS
    assert label_studio.project["model_version"] == CHAMPION


def test_older_predictions_stay_when_the_alias_moved_back_to_them_just_now(
    follower: Follower, queue: JobQueue, label_studio: StandInLabelStudio, registry: Registry
) -> None:
    registry.move(1, CHAMPION, "promoted")
    follower.round()
    draw(queue, label_studio)
    follower._follow(1, registry.last_move(1))
    assert label_studio.project["model_version"] == CHAMPION
    before = versions(label_studio)
    registry.move(1, None, "rolled back")
    follower._remove_older(1)
    assert versions(label_studio) == before
