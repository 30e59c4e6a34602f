"""Trainings are asked for once, when somebody wishes or enough is new, and about all that people did before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest
from rq.job import Job, JobStatus

from ml_backend.gatherer import Gatherer
from ml_backend.label_studio import LabelStudio
from ml_backend.new_corrections import NewCorrections
from ml_backend.protocol import START_TRAINING
from ml_backend.trigger import Trigger
from tests.stand_in_label_studio import KEY, StandInLabelStudio
from tests.with_redis.conftest import wait_for
from tests.with_redis.test_gatherer import annotation
from workers.changes import TRAINING_EVENT, Changes
from workers.contract import Training, TrainJob
from workers.corrections import Corrections
from workers.notices import Event
from workers.queue import JobQueue
from workers.settings import Settings

Stage = Training.model_fields["stage"].annotation


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.changes.QUIET_S", 0)
    monkeypatch.setattr("ml_backend.trigger.LOOK_S", 0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retrain_after": 3, "retrain_quiet_s": 0.0, "reconcile_s": 1e6})


@pytest.fixture
def label_studio(label_studio: StandInLabelStudio) -> StandInLabelStudio:
    label_studio.tasks = set(range(1, 9))
    return label_studio


@pytest.fixture
def gatherer(queue: JobQueue, label_studio: StandInLabelStudio, settings: Settings) -> Gatherer:
    client = LabelStudio(label_studio.url, KEY, timeout_s=10)
    return Gatherer(queue, client, Corrections(settings.data), Changes(queue.redis, settings.reconcile_s))


@pytest.fixture
def trigger(queue: JobQueue, settings: Settings) -> Trigger:
    return make_trigger(queue, settings)


def make_trigger(queue: JobQueue, settings: Settings) -> Trigger:
    return Trigger(queue, Changes(queue.redis, settings.reconcile_s), NewCorrections(settings.data))


def asked(queue: JobQueue) -> list[str]:
    """Why, for each training that waits."""
    return [TrainJob.model_validate_json(job.args[0]).why for job in queue.train.get_jobs()]


def end(queue: JobQueue, stage: str) -> None:
    """The training that waits ends, without a snapshot."""
    assert stage in get_args(Stage)
    [job] = queue.train.get_jobs()
    queue.train.empty()
    job.set_status(JobStatus.FINISHED)
    queue.keep_training(queue.trainings()[1].model_copy(update={"stage": stage, "at": datetime.now(UTC)}))


def gather(gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, *tasks: int) -> None:
    for task in tasks:
        label_studio.annotate(task, annotation(task))
    queue.keep_event(Event(action="ANNOTATION_CREATED", project_id=1, task_ids=tasks, at=datetime.now(UTC)))
    gatherer.round()


def test_the_event_is_the_one_that_label_studio_sends() -> None:
    assert TRAINING_EVENT == START_TRAINING


def test_a_wish_is_granted_after_all_that_was_done_before_it_is_gathered(
    gatherer: Gatherer, trigger: Trigger, queue: JobQueue, label_studio: StandInLabelStudio, settings: Settings
) -> None:
    label_studio.annotate(7, annotation())  # of which no webhook tells
    queue.keep_event(Event(action=START_TRAINING, project_id=1, at=datetime.now(UTC)))
    trigger.round()
    assert asked(queue) == []
    wait_for(lambda: gatherer.round() == (1, 0), 5)
    make_trigger(queue, settings).round()
    assert asked(queue) == ["asked"]
    assert len(list(Corrections(settings.data).of(1))) == 1
    end(queue, "refused")
    trigger.round()
    assert asked(queue) == []


def test_enough_new_corrections_are_asked_about_once(
    gatherer: Gatherer, trigger: Trigger, queue: JobQueue, label_studio: StandInLabelStudio, settings: Settings
) -> None:
    gather(gatherer, queue, label_studio, 1, 2)
    trigger.round()
    assert asked(queue) == []
    gather(gatherer, queue, label_studio, 3)
    for _ in range(3):
        trigger.round()
    make_trigger(queue, settings).round()
    assert asked(queue) == ["count"]


@pytest.mark.parametrize("stage", ["failed", "refused"])
def test_a_training_that_came_to_nothing_is_asked_again_only_about_something_new(
    gatherer: Gatherer,
    trigger: Trigger,
    queue: JobQueue,
    label_studio: StandInLabelStudio,
    settings: Settings,
    stage: str,
) -> None:
    gather(gatherer, queue, label_studio, 1, 2, 3)
    trigger.round()
    end(queue, stage)
    gather(gatherer, queue, label_studio, 4, 5)
    trigger.round()
    make_trigger(queue, settings).round()
    assert asked(queue) == []
    gather(gatherer, queue, label_studio, 6)
    trigger.round()
    assert asked(queue) == ["count"]


def test_a_project_that_annotators_are_at_waits_for_their_pause(
    gatherer: Gatherer, queue: JobQueue, label_studio: StandInLabelStudio, settings: Settings
) -> None:
    queue.settings = settings.model_copy(update={"retrain_quiet_s": 1000.0})
    trigger = make_trigger(queue, settings)
    gather(gatherer, queue, label_studio, 1, 2, 3)
    trigger.round()
    assert asked(queue) == []
    gather(gatherer, queue, label_studio, 4, 5, 6)
    trigger.round()
    assert asked(queue) == ["count"], "but not for ever"


def begin(queue: JobQueue, at: datetime) -> None:
    """A trainer takes the training that waits."""
    [job] = queue.train.get_jobs()
    queue.train.remove(job)
    job.set_status(JobStatus.STARTED)
    queue.keep_training(queue.trainings()[1].model_copy(update={"stage": "collecting", "began_at": at, "at": at}))


def finish(queue: JobQueue) -> None:
    """It ends."""
    Job.fetch("train-1", queue.redis, serializer="json").set_status(JobStatus.FINISHED)
    word = queue.trainings()[1].model_copy(update={"stage": "refused", "at": datetime.now(UTC)})
    queue.keep_training(word)


def wish(queue: JobQueue, gatherer: Gatherer) -> None:
    """Somebody presses Start Training, and all that was done before is gathered."""
    queue.keep_event(Event(action=START_TRAINING, project_id=1, at=datetime.now(UTC)))
    gatherer.round()
    wait_for(lambda: gatherer.round() is not None and Changes(queue.redis, 0).wished(), 5)
    [(_, when)] = Changes(queue.redis, 0).wished().items()
    wait_for(lambda: gatherer.round() is not None and Changes(queue.redis, 0).looked_through_since(1, when), 10)


def test_a_wish_while_a_training_runs_that_began_before_it_waits_for_its_end(
    gatherer: Gatherer, trigger: Trigger, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    gather(gatherer, queue, label_studio, 1, 2, 3)
    trigger.round()
    begin(queue, datetime.now(UTC))
    label_studio.annotate(4, annotation(4))
    wish(queue, gatherer)
    trigger.round()
    trigger.round()
    assert asked(queue) == []
    finish(queue)
    trigger.round()
    assert asked(queue) == ["asked"]
    finish(queue)
    queue.train.empty()
    trigger.round()
    assert asked(queue) == [], "once"


@pytest.mark.parametrize("begun", [False, True])
def test_a_wish_that_the_training_on_its_way_fulfils_is_over(
    gatherer: Gatherer, trigger: Trigger, queue: JobQueue, label_studio: StandInLabelStudio, begun: bool
) -> None:
    gather(gatherer, queue, label_studio, 1, 2, 3)
    trigger.round()
    wish(queue, gatherer)
    if begun:
        begin(queue, datetime.now(UTC))
        queue.keep_training(queue.trainings()[1].model_copy(update={"stage": "refused"}))  # its last word comes first
    trigger.round()
    assert Changes(queue.redis, 0).wished() == {}
