"""The store says what Label Studio says, whatever webhooks do and whoever dies when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend import brush
from ml_backend.beside import Beside
from ml_backend.errors import LabelStudioAway
from ml_backend.gatherer import Gatherer
from ml_backend.label_studio import LabelStudio
from ml_backend.protocol import ChangedPage
from tests.stand_in_label_studio import KEY, StandInLabelStudio, answers
from tests.with_redis.conftest import wait_for
from workers.changes import Changes
from workers.corrections import Corrections
from workers.notices import EVENTS, Event
from workers.queue import JobQueue
from workers.settings import Settings

AT_ONCE, NEVER = 1e-3, 1e6
"""How often a project is looked through, in seconds."""

PROGRAM = """
import os, resource, sys
from pathlib import Path
from ml_backend.gatherer import Gatherer
from ml_backend.label_studio import LabelStudio
from workers import changes, corrections
from workers.queue import JobQueue
from workers.settings import Settings
settings = Settings.load()
changes.QUIET_S = 0
def die(*_):
    os.kill(os.getpid(), 9)
with JobQueue.open(settings) as queue:
    store = corrections.Corrections(settings.data)
    gatherer = Gatherer(queue, LabelStudio.of(settings), store)
"""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.changes.QUIET_S", 0)


@pytest.fixture
def corrections(settings: Settings) -> Corrections:
    return Corrections(settings.data)


def make_gatherer(
    queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections, reconcile_s: float = NEVER
) -> Gatherer:
    client = LabelStudio(label_studio.url, KEY, timeout_s=10)
    return Gatherer(queue, client, corrections, Changes(queue.redis, reconcile_s))


@pytest.fixture
def gatherer(queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections) -> Gatherer:
    """One that project 1 is known to, and that was looked through before anything happened."""
    gatherer = make_gatherer(queue, label_studio, corrections)
    queue.keep_options(1, None)
    gatherer.round()
    return gatherer


@pytest.fixture
def reconciler(queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections) -> Gatherer:
    """One that looks through everything each round, and hears of no event."""
    queue.keep_options(1, None)
    return make_gatherer(queue, label_studio, corrections, AT_ONCE)


def annotation(number: int = 1, label: str = "target", **fields: Any) -> dict[str, Any]:
    mask = np.eye(6, 8, dtype=bool)
    value = {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]}
    where = {"from_name": "tag", "to_name": "image", "original_width": 8, "original_height": 6}
    region = {"id": "a", "type": "brushlabels", **where, "value": value}
    return {"id": number, "updated_at": "2026-11-24T00:17:48Z", "completed_by": 1, "result": [region], **fields}


def happened(queue: JobQueue, action: str = "ANNOTATION_CREATED", *task_ids: int) -> None:
    queue.keep_event(Event(action=action, project_id=1, task_ids=task_ids, at=datetime.now(UTC)))


def kept(corrections: Corrections) -> dict[int, list[int]]:
    """Annotations by their task."""
    return {task.mark.task_id: [one.annotation_id for one in task.annotations] for task in corrections.of(1)}


def test_an_event_has_its_task_gathered_once(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    happened(queue, "ANNOTATION_UPDATED", 7)
    assert gatherer.round() == (1, 0)
    assert gatherer.round() == (0, 0)
    assert (kept(corrections), label_studio.read) == ({7: [1]}, [7])
    [task] = corrections.of(1)
    assert [one.origin for one in task.annotations[0].corrections] == ["drawn"]


def test_an_event_waits_until_its_task_is_quiet(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.changes.QUIET_S", 0.5)
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    assert gatherer.round() == (0, 0)
    assert wait_for(lambda: gatherer.round() == (1, 0), 5)


def test_lost_webhooks_lose_nothing(
    reconciler: Gatherer, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation(1))
    label_studio.annotate(8, annotation(2), annotation(3))
    assert reconciler.round() == (2, 0)
    assert kept(corrections) == {7: [1], 8: [2, 3]}
    label_studio.annotate(8, annotation(2, updated_at="2026-11-25T00:00:00Z", result=[]))  # and 3 was deleted
    label_studio.annotate(7, annotation(1, was_cancelled=True))
    time.sleep(2 * AT_ONCE)
    assert reconciler.round() == (1, 1)
    assert kept(corrections) == {8: [2]}
    label_studio.tasks = {7}
    time.sleep(2 * AT_ONCE)
    assert reconciler.round() == (0, 1)
    assert kept(corrections) == {}


def test_only_what_changed_is_read_again(
    reconciler: Gatherer, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.tasks, label_studio.page_limit = range(1, 500), 50
    for number in range(1, 120):
        label_studio.annotate(number, annotation(number))
    assert reconciler.round().written == 119
    label_studio.read.clear()
    label_studio.annotate(33, annotation(33, updated_at="2026-11-25T00:00:00Z"))
    time.sleep(2 * AT_ONCE)
    assert reconciler.round() == (1, 0)
    assert label_studio.read == [33]


def test_deletions_which_name_no_task_have_the_project_looked_through(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    gatherer.round()
    label_studio.annotate(7)
    happened(queue, "ANNOTATIONS_DELETED")
    assert gatherer.round() == (0, 1)
    assert kept(corrections) == {}


def test_events_that_are_about_no_annotation_have_nothing_read(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    before = len(label_studio.calls)
    happened(queue, "PROJECT_UPDATED")
    assert gatherer.round() == (0, 0)
    assert len(label_studio.calls) == before


def test_before_a_training_that_somebody_asks_for_the_project_is_looked_through(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.annotate(7, annotation())
    happened(queue, "START_TRAINING")
    assert gatherer.round() == (1, 0)


def test_where_another_gathers_nobody_else_does_and_the_event_waits(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    with Changes(queue.redis, NEVER).alone_at(1):
        assert gatherer.round() == (0, 0)
    assert gatherer.round() == (1, 0)


def test_what_changes_while_it_is_gathered_is_gathered_again(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    changes = Changes(queue.redis, NEVER)
    happened(queue, "ANNOTATION_CREATED", 7)
    changes.drain()
    [when] = changes.waiting(9)[1].values()
    happened(queue, "ANNOTATION_UPDATED", 7)
    changes.drain()
    changes.done(1, 7, when)
    [later] = changes.waiting(9)[1].values()
    assert later > when
    changes.done(1, 7, later)
    assert changes.waiting(9) == {}


def test_one_task_that_nobody_can_read_keeps_no_other_from_being_gathered(
    reconciler: Gatherer, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation(updated_at="yesterday"))
    label_studio.annotate(8, annotation(2))
    reconciler.round()
    assert kept(corrections) == {8: [2]}


def test_a_task_that_cannot_be_read_now_keeps_what_it_had(
    reconciler: Gatherer, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation())
    reconciler.round()
    label_studio.annotate(7, annotation(updated_at="yesterday"))
    time.sleep(2 * AT_ONCE)
    assert reconciler.round() == (0, 0)
    assert kept(corrections) == {7: [1]}


def test_a_task_that_label_studio_breaks_over_keeps_no_other_from_being_gathered(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation())
    label_studio.annotate(8, annotation(2))
    happened(queue, "ANNOTATION_CREATED", 7, 8)
    label_studio.misbehave("GET", answers(500), answers(500))  # over both, and over the first alone
    assert gatherer.round() == (1, 0)
    assert len(kept(corrections)) == 1


def test_a_project_that_is_gone_keeps_its_corrections(
    reconciler: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    label_studio.annotate(7, annotation())
    reconciler.round()
    label_studio.misbehave("GET", answers(404))
    time.sleep(2 * AT_ONCE)
    assert reconciler.round() == (0, 0)
    assert kept(corrections) == {7: [1]}


def test_a_label_studio_that_is_away_is_waited_for(
    gatherer: Gatherer,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    corrections: Corrections,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ml_backend.beside.LOOK_S", 0.02)
    monkeypatch.setattr("ml_backend.beside.PAUSE_S", 0.1)
    thread = Beside(gatherer)
    label_studio.away = answers(503)
    thread.start()
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    wait_for(lambda: label_studio.calls.count("GET /api/projects/1/") > 2)
    assert kept(corrections) == {}
    label_studio.away = None
    wait_for(lambda: kept(corrections) == {7: [1]})
    thread.stop()
    assert not thread.is_alive()


def run(settings: Settings, label_studio: StandInLabelStudio, *lines: str, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    ours = {
        "REDIS_URL": str(settings.redis_url),
        "RSREFSEG_DATA": str(settings.data),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    program = PROGRAM + "".join(f"    {line}\n" for line in lines)
    return subprocess.Popen(
        [sys.executable, "-c", program], env=kept | ours | environment, stdout=subprocess.PIPE, text=True
    )


def test_whoever_is_killed_between_file_and_mark_left_nothing_undone_and_nothing_twice(
    gatherer: Gatherer,
    queue: JobQueue,
    settings: Settings,
    label_studio: StandInLabelStudio,
    corrections: Corrections,
) -> None:
    label_studio.annotate(7, annotation())
    happened(queue, "ANNOTATION_CREATED", 7)
    with run(
        settings, label_studio, "changes.Changes.done = die", "gatherer.round()", RSREFSEG_RECONCILE_S="1e6"
    ) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    before = list(corrections.of(1))
    assert kept(corrections) == {7: [1]}
    queue.redis.delete("rsrefseg:gathering:1")  # in place of waiting for it to run out
    assert gatherer.round() == (1, 0)
    assert list(corrections.of(1)) == before
    assert Changes(queue.redis, NEVER).waiting(9) == {}


def test_a_project_half_looked_through_is_finished_by_the_next(
    reconciler: Gatherer,
    queue: JobQueue,
    settings: Settings,
    label_studio: StandInLabelStudio,
    corrections: Corrections,
) -> None:
    label_studio.tasks = range(1, 100)
    for number in range(1, 61):
        label_studio.annotate(number, annotation(number))
    with run(
        settings,
        label_studio,
        "put = corrections.Corrections.put",
        "corrections.Corrections.put = lambda self, task: (put(self, task), task.mark.task_id == 20 and die())",
        "gatherer.round()",
    ) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert len(kept(corrections)) == 20
    queue.redis.delete("rsrefseg:gathering:1")
    label_studio.read.clear()
    assert reconciler.round() == (40, 0)
    assert label_studio.read == list(range(21, 61))
    assert kept(corrections) == {number: [number] for number in range(1, 61)}


def test_ten_thousand_annotated_tasks_take_no_more_memory_than_a_thousand(
    queue: JobQueue, settings: Settings, label_studio: StandInLabelStudio, corrections: Corrections
) -> None:
    queue.keep_options(1, None)
    label_studio.tasks = range(1, 10_001)
    for number in label_studio.tasks:
        label_studio.annotate(number, annotation(number))
    gathering = run(
        settings,
        label_studio,
        "corrections.os.fsync = lambda _: None",
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024",
        "put = corrections.Corrections.put",
        "say = lambda task: task.mark.task_id == 1000 and print(peak())",
        "corrections.Corrections.put = lambda self, task: (put(self, task), say(task))",
        "print(gatherer.round().written)",
        "print(peak())",
    )
    said, _ = gathering.communicate(timeout=280)
    early_mib, written, late_mib = map(int, said.split())
    assert written == 10_000
    assert late_mib - early_mib < 32
    assert len(corrections.marks(1)) == 10_000


class BreaksOverOneProject(LabelStudio):
    """Label Studio answers 500 about project 0."""

    def label_config(self, project_id: int) -> str:
        if project_id == 0:
            raise LabelStudioAway("Label Studio answered 500.", status=500)
        return super().label_config(project_id)

    def annotated(self, project_id: int, after: int = 0, page_size: int = 100) -> ChangedPage:
        if project_id == 0:
            raise LabelStudioAway("Label Studio answered 500.", status=500)
        return super().annotated(project_id, after, page_size)


@pytest.mark.parametrize("reconcile_s", [AT_ONCE, NEVER])
def test_a_project_that_label_studio_breaks_over_keeps_no_other_waiting(
    queue: JobQueue, label_studio: StandInLabelStudio, corrections: Corrections, reconcile_s: float
) -> None:
    client = BreaksOverOneProject(label_studio.url, KEY, timeout_s=10)
    gatherer = Gatherer(queue, client, corrections, Changes(queue.redis, reconcile_s))
    for project_id in (0, 1):
        queue.keep_options(project_id, None)
        event = Event(action="ANNOTATION_CREATED", project_id=project_id, task_ids=(7,), at=datetime.now(UTC))
        queue.keep_event(event)
    label_studio.annotate(7, annotation())
    with pytest.raises(LabelStudioAway):
        gatherer.round()
    assert kept(corrections) == {7: [1]}
    label_studio.annotate(7, annotation(2))
    happened(queue, "ANNOTATION_CREATED", 7)
    with pytest.raises(LabelStudioAway):
        gatherer.round()
    assert kept(corrections) == {7: [2]}


def test_an_event_that_cannot_be_read_is_passed_over(
    gatherer: Gatherer,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    corrections: Corrections,
    caplog: pytest.LogCaptureFixture,
) -> None:
    label_studio.annotate(7, annotation())
    queue.redis.xadd(EVENTS, {"event": '{"of": "another version"}'})
    queue.redis.xadd(EVENTS, {"happening": "{}"})
    happened(queue, "ANNOTATION_CREATED", 7)
    gatherer.round()
    assert kept(corrections) == {7: [1]}
    assert caplog.messages.count("event not readable") == 2
    caplog.clear()
    gatherer.round()
    assert "event not readable" not in caplog.messages


def test_what_a_killed_courier_left_half_written_is_swept(
    reconciler: Gatherer, corrections: Corrections, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.whole.LEFT_OVER_S", -1)
    folder = settings.data / "corrections/1"
    folder.mkdir(parents=True)
    (folder / ".7.json.3fa94c12").touch()
    reconciler.round()
    assert list(folder.iterdir()) == []
