from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client import REGISTRY
from rq.exceptions import AbandonedJobError
from rq.job import JobStatus

from tests.factories import make_answer, make_job
from tests.with_redis.conftest import answers_in, requests_in
from workers.contract import Chunk, TrainJob
from workers.errors import JobStopped
from workers.failures import Failure
from workers.given_up import on_failure
from workers.jobs import CHUNK_REQUESTS
from workers.notices import SKETCH_SIZE, Sketch
from workers.queue import Event, JobQueue, QueueFull, RedisAway
from workers.redis_server import EmbeddedRedis


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


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
    assert [job.task_id for job in requests_in(queue)] == [3, 4, 1, 2]


def submit_many(queue: JobQueue, project_id: int, count: int) -> None:
    queue.submit([make_job(number, project_id=project_id, image_uri=f"/{number}.png") for number in range(count)])


def test_requests_travel_in_chunks_that_keep_an_image_together(queue: JobQueue) -> None:
    queue.submit([make_job(number, image_uri=f"/{number % 50}.png") for number in range(100)])
    [first] = queue.gpu.get_jobs()
    chunk = Chunk.model_validate_json(first.args[0])
    assert len(chunk.requests) == CHUNK_REQUESTS
    assert [job.task_id for job in chunk.requests[:4]] == [0, 50, 1, 51]
    assert len(requests_in(queue)) == 100


def test_a_chunk_of_images_inside_their_addresses_stays_small(queue: JobQueue) -> None:
    queue.submit([make_job(number, image_uri="data:image/png;base64," + 600_000 * "A") for number in range(5)])
    assert len(queue.redis.keys("rq:job:chunk-*")) == 3


def test_projects_take_turns_however_much_each_has_to_do(queue: JobQueue) -> None:
    submit_many(queue, 1, 20 * CHUNK_REQUESTS)
    submit_many(queue, 2, 2 * CHUNK_REQUESTS)
    submit_many(queue, 3, 3)
    taken = []
    for _ in range(7):
        queue.feed()
        job = queue.gpu.get_jobs()[0]
        queue.redis.lpop(queue.gpu.key)
        taken.append(Chunk.model_validate_json(job.args[0]).project_id)
    assert taken == [1, 1, 2, 3, 1, 2, 1], "the first was given before there was another"


def test_workers_pause_while_too_many_answers_wait_for_label_studio(queue: JobQueue) -> None:
    settings = queue.settings.model_copy(update={"answers_limit": 2})
    queue = JobQueue(queue.redis, settings)
    for number in (1, 2):
        queue.deliver(make_answer(make_job(number)))
    submit_many(queue, 1, 3)
    assert queue.gpu.count == 0
    queue.redis.lpop(queue.label_studio.key)
    queue.feed()
    assert queue.gpu.count == 1


def test_a_project_has_a_limit_of_its_own(queue: JobQueue) -> None:
    queue.settings = queue.settings.model_copy(update={"project_limit": 3})
    submit_many(queue, 1, 3)
    with pytest.raises(QueueFull, match=r"3 requests of project 1 .*RSREFSEG_PROJECT_LIMIT"):
        queue.submit([make_job(99)])
    with pytest.raises(QueueFull):
        queue.check_room(1, 1)
    queue.check_room(2, 3)
    submit_many(queue, 2, 3)
    assert queue.counts()["waiting"] == 6


def test_what_is_put_back_is_the_new_chunks_and_no_more_the_old_ones(queue: JobQueue) -> None:
    jobs = [make_job(number, image_uri=f"/{number}.png") for number in range(4)]
    queue.submit(jobs)
    [old] = queue.gpu.get_jobs()
    chunk = Chunk(requests=tuple(jobs))
    queue.deliver(make_answer(jobs[0]))
    assert queue.still_held(chunk, old.id) == jobs[1:]
    queue.put_back(jobs[:3], old.id, "head of line")
    assert queue.still_held(chunk, old.id) == jobs[3:], "a late worker leaves the others alone"
    queue.redis.lpop(queue.gpu.key)
    queue.feed()
    [new] = queue.gpu.get_jobs()
    assert queue.still_held(chunk, new.id) == jobs[1:3], "what is being delivered is not put back"
    assert queue.submit(jobs) == 0


def test_a_request_whose_chunk_got_lost_can_be_asked_again(queue: JobQueue) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    queue.gpu.remove(job)
    job.delete()
    assert queue.states(1, [make_job().key]) == ["failed"]
    assert queue.submit([make_job()]) == 1
    assert queue.states(1, [make_job().key]) == ["in flight"]


def test_a_waiting_request_takes_little_memory(queue: JobQueue) -> None:
    before = queue.redis.info("memory")["used_memory"]
    submit_many(queue, 1, 5000)
    assert (queue.redis.info("memory")["used_memory"] - before) / 5000 < 1500


def test_an_interactive_request_goes_to_a_worker_of_its_own_where_there_is_one(queue: JobQueue) -> None:
    job = make_job(interactive=True)
    queue.redis.sadd("rq:workers:interactive", "rq:worker:somebody")
    assert queue.submit([job], front=True) == 1
    assert (queue.interactive.count, queue.gpu.count) == (1, 0)
    assert queue.wait_for_reply(job, timeout_s=1) is None
    assert queue.interactive.count == 0


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
    ("kind", "move", "reason", "cause"),
    [
        (AbandonedJobError, "ours", "workers died over it", "worker_died"),
        (JobStopped, "annotator", "stopped by hand", "stopped"),
        (ValueError, "ours", "the log names it chunk-", "broken"),
    ],
)
def test_a_job_that_rq_gives_up_becomes_a_failure(
    queue: JobQueue, kind: type[BaseException], move: str, reason: str, cause: str
) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    job.retries_left = 0
    before = counted("rsrefseg_failures_total", stage="predict", move=move, cause=cause)
    on_failure(job, queue.redis, kind, kind(), None)
    [failure] = queue.failures()
    assert (failure.stage, failure.move) == ("predict", move)
    assert reason in failure.reason
    assert counted("rsrefseg_failures_total", stage="predict", move=move, cause=cause) == before + 1


def test_what_was_put_back_is_as_old_as_before_and_seen_in_the_line_of_its_project(queue: JobQueue) -> None:
    queue.submit([make_job(1)])
    [chunk] = queue.gpu.get_jobs()
    [request] = requests_in(queue)
    assert request.asked_at is not None
    hours_ago = request.model_copy(update={"asked_at": request.asked_at - timedelta(hours=2)})
    assert queue.ages()["gpu"] < 60
    queue.put_back([hours_ago], chunk.id, "head of line")
    assert [job.id for job in queue.gpu.get_jobs()] == [chunk.id], "the other waits in its line"
    assert 7200 <= queue.ages()["gpu"] < 7300
    assert queue.ages()["label-studio"] == 0


def test_settling_says_whether_it_was_the_first_time(queue: JobQueue) -> None:
    queue.submit([make_job()])
    assert [queue.settle(make_job()), queue.settle(make_job())] == [True, False]


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
    queue.settle(delivered)
    queue.record_failure(Failure.of(failed, "predict", "wait", "Away."))
    assert queue.wait_until_settled(1, [delivered.key, failed.key], timeout_s=1)
    assert not queue.wait_until_settled(1, [delivered.key, open_still.key], timeout_s=0.1)
    keys = [open_still.key, failed.key, delivered.key]
    assert queue.states(1, keys) == ["in flight", "failed", "delivered"]


def test_a_request_that_rq_gave_up_has_failed_before_it_is_on_the_list(queue: JobQueue) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    job.set_status(JobStatus.FAILED)
    assert queue.failures() == []
    assert queue.states(1, [make_job().key]) == ["failed"]
    assert queue.submit([make_job()]) == 1
    assert queue.states(1, [make_job().key]) == ["in flight"]


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


def test_what_images_look_like_is_kept_in_few_bytes_a_task(queue: JobQueue) -> None:
    vector = np.random.default_rng(0).standard_normal(SKETCH_SIZE).astype(np.float16)
    first = Sketch(vector, 0.25, "tiny@1", frozenset({"Grüne Fläche", "ship"}))
    queue.keep_sketch(1, 7, Sketch(-vector, 0.5, "tiny@0"))
    queue.keep_sketch(1, 7, first)
    queue.keep_sketch(1, 8, Sketch(vector, 1.0, "tiny@1"))
    queue.keep_sketch(2, 7, Sketch(vector, 1.0, "tiny@1"))
    kept = queue.sketches(1)
    assert sorted(kept) == [7, 8]
    assert (kept[7].vector == vector).all()
    assert kept[7][1:] == first[1:]
    assert kept[8].labels == frozenset()
    assert queue.sketches(3) == {}
    for task in range(1000, 3000):
        queue.keep_sketch(4, task, first)
    assert queue.redis.memory_usage("rsrefseg:sketches:4", samples=0) < 2000 * 400
    assert len(queue.sketches(4)) == 2000


def test_every_door_says_in_the_same_way_that_redis_is_away(queue: JobQueue, redis_server: EmbeddedRedis) -> None:
    redis_server.stop()
    doors = [
        queue.ping,
        queue.counts,
        queue.failures,
        queue.model_version,
        lambda: queue.submit([make_job()]),
        lambda: queue.deliver(make_answer()),
        lambda: queue.settle(make_job()),
        lambda: queue.wait_until_settled(1, ["key"], timeout_s=1),
        lambda: queue.wait_for_reply(make_job(), timeout_s=1),
    ]
    for door in doors:
        with pytest.raises(RedisAway):
            door()


def test_one_training_of_a_project_is_on_its_way_at_a_time(queue: JobQueue) -> None:
    job = TrainJob(project_id=3, why="asked")
    assert queue.ask_training(job)
    assert not queue.ask_training(TrainJob(project_id=3, why="count"))
    assert queue.ask_training(TrainJob(project_id=4, why="count"))
    [waiting, other] = queue.train.get_jobs()
    assert TrainJob.model_validate_json(waiting.args[0]) == job
    said = queue.trainings()
    assert [(said[project].stage, said[project].why) for project in (3, 4)] == [
        ("waiting", "asked"),
        ("waiting", "count"),
    ]
    other.set_status(JobStatus.FAILED)
    assert queue.ask_training(TrainJob(project_id=4, why="asked"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(AbandonedJobError, "trainers died"), (JobStopped, "by hand"), (ValueError, "the log names it train-3")],
)
def test_a_training_that_rq_gives_up_has_failed_with_a_reason(
    queue: JobQueue, kind: type[BaseException], reason: str
) -> None:
    queue.ask_training(TrainJob(project_id=3, why="asked"))
    [job] = queue.train.get_jobs()
    outcome = "stopped" if kind is JobStopped else "failed"
    before = counted("rsrefseg_trainings_total", outcome=outcome)
    on_failure(job, queue.redis, kind, kind("no"), None)
    if kind is not JobStopped:
        assert queue.trainings()[3].stage == "waiting", "it will be tried again"
        job.retries_left = 0
        on_failure(job, queue.redis, kind, kind("no"), None)
    training = queue.trainings()[3]
    assert training.stage == "failed"
    assert reason in training.reason
    assert counted("rsrefseg_trainings_total", outcome=outcome) == before + 1
