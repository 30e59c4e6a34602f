from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from rq.exceptions import AbandonedJobError
from rq.job import JobStatus

from tests.factories import make_answer, make_job
from tests.with_redis.conftest import answers_in
from workers.errors import JobStopped
from workers.failures import Failure
from workers.queue import Event, JobQueue, QueueFull, RedisAway, on_failure
from workers.redis_server import EmbeddedRedis


def test_the_same_request_waits_once_however_often_and_by_whomever_it_is_submitted(queue: JobQueue) -> None:
    queue.settings = queue.settings.model_copy(update={"queue_limit": 50})
    jobs = [make_job(task_id) for task_id in range(50)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: queue.submit(jobs + jobs), range(8))) == 50
    assert queue.counts()["waiting"] == 50


def test_a_request_whose_answer_waits_for_the_courier_is_not_asked_again(queue: JobQueue) -> None:
    queue.deliver(make_answer(make_job()))
    assert queue.submit([make_job()]) == 0


def test_an_answer_handed_over_twice_is_delivered_once(queue: JobQueue) -> None:
    queue.deliver(make_answer())
    queue.deliver(make_answer())
    assert answers_in(queue) == [make_answer()]


def test_requests_keep_their_order_and_urgent_ones_go_first(queue: JobQueue) -> None:
    queue.submit([make_job(1), make_job(2)])
    queue.submit([make_job(3), make_job(4)], front=True)
    expected = [f"predict-{make_job(task_id).key}" for task_id in (3, 4, 1, 2)]
    assert queue.gpu.get_job_ids() == expected


def test_a_full_queue_refuses_before_anything_is_enqueued(queue: JobQueue) -> None:
    queue.settings = queue.settings.model_copy(update={"queue_limit": 3})
    queue.submit([make_job(1), make_job(2)])
    with pytest.raises(QueueFull, match="RSREFSEG_QUEUE_LIMIT") as refused:
        queue.submit([make_job(3), make_job(4)])
    assert refused.value.retry_after_s > 0
    assert queue.counts()["waiting"] == 2
    assert queue.submit([make_job(1), make_job(2), make_job(3)]) == 1, "those in flight need no room"


def test_a_failed_request_is_listed_until_it_is_asked_again(queue: JobQueue) -> None:
    job = make_job(image_uri="/data/upload/1/gone.png")
    queue.record_failure(Failure.of(job, "predict", "annotator", "Label Studio has no such image."))
    [failure] = queue.failures(project_id=1)
    assert (failure.task_id, failure.image_uri) == (7, "/data/upload/1/gone.png")
    assert queue.failures(project_id=2) == []
    assert queue.counts()["failed"] == 1

    assert queue.submit([job]) == 1
    assert queue.failures() == []


def test_a_failure_can_be_taken_off_the_list(queue: JobQueue) -> None:
    queue.record_failure(Failure.of(make_job(), "deliver", "ours", "No."))
    queue.clear_failures([make_job(99).key, make_job().key])
    assert queue.failures() == []
    assert queue.counts()["failed"] == 0


@pytest.mark.parametrize(
    ("kind", "move", "reason"),
    [
        (AbandonedJobError, "ours", "workers died over it"),
        (JobStopped, "annotator", "stopped by hand"),
        (ValueError, "ours", "the log names it predict-"),
    ],
)
def test_a_job_that_rq_gives_up_becomes_a_failure(
    queue: JobQueue, kind: type[BaseException], move: str, reason: str
) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    job.retries_left = 0
    on_failure(job, queue.redis, kind, kind(), None)
    [failure] = queue.failures()
    assert (failure.stage, failure.move) == ("predict", move)
    assert reason in failure.reason


def test_a_job_that_will_be_tried_again_is_no_failure(queue: JobQueue) -> None:
    queue.deliver(make_answer())
    [job] = queue.label_studio.get_jobs()
    on_failure(job, queue.redis, ConnectionError, ConnectionError(), None)
    assert queue.failures() == []
    job.retries_left = 0
    on_failure(job, queue.redis, ConnectionError, ConnectionError(), None)
    assert queue.failures()[0].stage == "deliver"


def test_waiting_ends_when_every_request_is_delivered_or_has_failed(queue: JobQueue) -> None:
    delivered, failed, open_still = (make_job(task_id) for task_id in (1, 2, 3))
    queue.submit([delivered, failed, open_still])
    queue.settle(delivered.key)
    queue.record_failure(Failure.of(failed, "predict", "wait", "Away."))
    assert queue.wait_until_settled([delivered.key, failed.key], timeout_s=1)
    assert not queue.wait_until_settled([delivered.key, open_still.key], timeout_s=0.1)
    keys = [open_still.key, failed.key, delivered.key]
    assert queue.states(keys) == ["in flight", "failed", "delivered"]


def test_a_request_that_rq_gave_up_has_failed_before_it_is_on_the_list(queue: JobQueue) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    job.set_status(JobStatus.FAILED)
    assert queue.failures() == []
    assert queue.states([make_job().key]) == ["failed"]
    assert queue.submit([make_job()]) == 1
    assert queue.states([make_job().key]) == ["in flight"]


def test_an_interactive_request_that_nobody_takes_in_time_is_taken_back(queue: JobQueue) -> None:
    job = make_job(interactive=True)
    queue.submit([job], front=True)
    assert queue.wait_for_reply(job, timeout_s=1) is None
    assert queue.counts()["waiting"] == 0
    assert queue.submit([job]) == 1


def test_the_version_announced_last_is_served_and_old_ones_stay_known(queue: JobQueue) -> None:
    assert queue.model_version() is None
    queue.announce("tiny@1")
    queue.announce("tiny@2")
    queue.announce("tiny@1", again=True)
    assert queue.model_version() == "tiny@2"
    assert queue.model_versions() == ["tiny@2", "tiny@1"]
    queue.announce("tiny@1")
    assert queue.model_version() == "tiny@1", "a worker that starts with an old version rolls back"


def test_events_are_kept_for_those_who_pull_corrections(queue: JobQueue) -> None:
    event = Event(action="ANNOTATION_UPDATED", project_id=1, annotation_ids=(5,), task_ids=(7,), at=datetime.now(UTC))
    queue.keep_event(event)
    [(_, fields)] = queue.redis.xrange("rsrefseg:events")
    assert Event.model_validate_json(fields[b"event"]) == event


def test_every_door_says_in_the_same_way_that_redis_is_away(queue: JobQueue, redis_server: EmbeddedRedis) -> None:
    redis_server.stop()
    doors = [
        queue.ping,
        queue.counts,
        queue.failures,
        queue.model_version,
        lambda: queue.submit([make_job()]),
        lambda: queue.deliver(make_answer()),
        lambda: queue.settle("key"),
        lambda: queue.wait_until_settled(["key"], timeout_s=1),
        lambda: queue.wait_for_reply(make_job(), timeout_s=1),
    ]
    for door in doors:
        with pytest.raises(RedisAway):
            door()
