from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from rq import SimpleWorker
from rq.command import send_stop_job_command
from rq.executions import Execution
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler

from tests.conftest import TOKEN, ImageHost
from tests.factories import make_image_uri, make_job, make_png
from tests.with_redis.conftest import WorkerProcess, answers_in, wait_for
from workers.contract import Answer, Refusal
from workers.queue import JobQueue, connect
from workers.redis_server import EmbeddedRedis

StartWorker = Callable[[], WorkerProcess]


def job_id_of(queue: JobQueue) -> str:
    [worker] = SimpleWorker.all(connection=queue.redis, serializer="json")
    return str(worker.get_current_job_id())


def enqueue_what_is_due(queue: JobQueue) -> None:
    """What the courier's scheduler does, without its pauses."""
    registry = ScheduledJobRegistry(queue=queue.gpu)
    for job_id in registry.get_job_ids():
        queue.redis.zadd(registry.key, {job_id: 0})
    scheduler = RQScheduler([queue.gpu], connection=queue.redis, serializer="json")
    scheduler.acquire_locks()
    scheduler.enqueue_scheduled_jobs()
    scheduler.release_locks()


def test_the_masks_of_a_request_are_handed_to_the_courier(queue: JobQueue, start_worker: StartWorker) -> None:
    job = make_job(expressions=("the ship", "the pier"))
    assert queue.submit([job]) == 1
    start_worker()
    [answer] = wait_for(lambda: answers_in(queue))
    assert answer.job.key == job.key
    assert answer.model_version == "obedient@1"
    assert [found.expression for found in answer.found] == ["the ship", "the pier"]
    white = np.zeros((6, 8), bool)
    white[:3, :4] = True
    assert (answer.found[0].mask.to_mask() == white).all()
    wait_for(lambda: queue.counts() == {"waiting": 0, "running": 0, "to_deliver": 1, "failed": 0})
    wait_for(lambda: not queue.redis.keys("rq:job:chunk-*"))


def test_what_a_task_looks_like_is_there_before_its_masks_are(queue: JobQueue, start_worker: StartWorker) -> None:
    queue.submit([make_job(task_id) for task_id in (7, 8)])
    start_worker()
    wait_for(lambda: len(answers_in(queue)) == 2)
    sketches = queue.sketches(1)
    assert sorted(sketches) == [7, 8]
    assert np.flatnonzero(sketches[7].vector).size == 1
    assert (sketches[7].score, sketches[7].model_version, sketches[7].labels) == (0.8, "obedient@1", {"target"})
    typed = make_job(9, interactive=True)
    queue.submit([typed], front=True)
    assert isinstance(queue.wait_for_reply(typed, timeout_s=10), Answer)
    assert sorted(queue.sketches(1)) == [7, 8]


def test_a_request_submitted_again_while_it_is_worked_on_is_computed_once(
    queue: JobQueue, start_worker: StartWorker
) -> None:
    job = make_job(expressions=("sleep 0.5",))
    queue.submit([job])
    worker = start_worker()
    wait_for(worker.began)
    assert queue.submit([job]) == 0
    wait_for(lambda: answers_in(queue))
    assert queue.submit([job]) == 0
    assert len(worker.began()) == 1


def test_a_worker_announces_its_model_before_the_first_request(queue: JobQueue, start_worker: StartWorker) -> None:
    start_worker()
    assert wait_for(queue.model_version) == "obedient@1"


def test_an_interactive_request_is_answered_to_the_asker_alone(queue: JobQueue, start_worker: StartWorker) -> None:
    start_worker()
    job = make_job(interactive=True)
    for _ in range(2):  # A person may ask the same thing again.
        assert queue.submit([job], front=True) == 1
        reply = queue.wait_for_reply(job, timeout_s=10)
        assert isinstance(reply, Answer)
        assert reply.job.key == job.key
    assert queue.counts()["to_deliver"] == 0


def test_an_interactive_request_about_an_image_that_is_away_is_refused_at_once(
    queue: JobQueue, image_host: ImageHost, start_worker: StartWorker
) -> None:
    image_host.down = True
    start_worker()
    job = make_job(image_uri="/data/upload/1/a.png", interactive=True)
    queue.submit([job], front=True)
    reply = queue.wait_for_reply(job, timeout_s=10)
    assert isinstance(reply, Refusal)
    assert reply.move == "wait"
    assert "/data/upload/1/a.png" in reply.reason
    assert queue.failures() == []


def test_a_request_of_a_killed_worker_is_done_by_the_next(queue: JobQueue, start_worker: StartWorker) -> None:
    queue.submit([make_job(expressions=("sleep 1",))])
    killed = start_worker()
    wait_for(killed.began)
    killed.signal(signal.SIGKILL)
    start_worker()
    assert len(wait_for(lambda: answers_in(queue))) == 1
    wait_for(lambda: queue.counts()["running"] == 0)
    assert len(killed.began()) == 2
    assert queue.failures() == []


@pytest.mark.parametrize("leased", [False, True])
def test_a_request_whose_worker_died_before_it_began_is_done_by_the_next(
    queue: JobQueue, start_worker: StartWorker, leased: bool
) -> None:
    queue.submit([make_job()])
    [job] = queue.gpu.get_jobs()
    queue.redis.lmove(queue.gpu.key, queue.gpu.intermediate_queue_key)
    if leased:
        with queue.redis.pipeline() as pipe:
            Execution.create(job, ttl=1, pipeline=pipe)
            pipe.execute()
    start_worker()
    wait_for(lambda: answers_in(queue))


def test_a_request_that_kills_every_worker_is_given_up_with_a_reason(
    queue: JobQueue, start_worker: StartWorker
) -> None:
    queue.submit([make_job(expressions=("die",))])
    [job] = queue.gpu.get_jobs()
    assert job.retries_left == 3
    queue.redis.hset(job.key, "retries_left", 0)
    start_worker().process.wait()
    start_worker()
    [failure] = wait_for(queue.failures)
    assert failure.move == "ours"
    assert "4 workers died over it" in failure.reason


def test_sigterm_lets_the_request_in_hand_end(queue: JobQueue, start_worker: StartWorker) -> None:
    queue.submit([make_job(1, expressions=("sleep 1",)), make_job(2, image_uri=make_image_uri((9, 9)))])
    worker = start_worker()
    wait_for(worker.began)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0
    assert [answer.job.task_id for answer in answers_in(queue)] == [1]
    assert queue.counts()["waiting"] == 1
    assert SimpleWorker.all(connection=queue.redis) == []


def test_an_image_that_kills_the_worker_is_set_apart_from_its_neighbours(
    queue: JobQueue, start_worker: StartWorker
) -> None:
    jobs = [make_job(number, image_uri=make_image_uri((9, 9 + number))) for number in range(1, 8)]
    jobs[2] = make_job(3, expressions=("die",), image_uri=make_image_uri((9, 12)))
    queue.submit(jobs)
    worker = start_worker()
    while not queue.failures():
        if worker.process.poll() is not None:
            worker = start_worker()
        time.sleep(0.05)
    [failure] = queue.failures()
    assert failure.task_id == 3
    assert "workers died over it" in failure.reason
    assert sorted(
        answer.job.task_id for answer in wait_for(lambda: len(answers_in(queue)) == 6 and answers_in(queue))
    ) == [1, 2, 4, 5, 6, 7]
    wait_for(lambda: queue.counts() == {"waiting": 0, "running": 0, "to_deliver": 6, "failed": 1})


def test_a_person_can_stop_a_request_and_the_worker_goes_on(queue: JobQueue, start_worker: StartWorker) -> None:
    queue.submit([make_job(1, expressions=("sleep 60",)), make_job(2, image_uri=make_image_uri((9, 9)))])
    worker = start_worker()
    wait_for(worker.began)
    send_stop_job_command(queue.redis, job_id_of(queue), serializer="json")
    [failure] = wait_for(queue.failures)
    assert (failure.task_id, failure.move) == (1, "annotator")
    assert [answer.job.task_id for answer in wait_for(lambda: answers_in(queue))] == [2]
    assert queue.submit([make_job(1, expressions=("sleep 60",))]) == 1


def test_nothing_is_lost_when_redis_goes_away_and_comes_back(
    queue: JobQueue, redis_server: EmbeddedRedis, start_worker: StartWorker
) -> None:
    queue.submit([make_job(1, expressions=("sleep 1",)), *(make_job(task_id) for task_id in range(2, 6))])
    worker = start_worker()
    wait_for(worker.began)
    redis_server.stop()
    time.sleep(1.5)  # The job ends and finds nobody to take its answer.
    again = EmbeddedRedis.start(redis_server.directory)
    try:
        with connect(again.url) as redis:
            back = JobQueue(redis, queue.settings)
            delivered = wait_for(lambda: len(answers := answers_in(back)) == 5 and answers)
            assert {answer.job.task_id for answer in delivered} == {1, 2, 3, 4, 5}
            assert len(worker.began()) == 5, "no mask was computed twice"
            wait_for(lambda: back.counts() == {"waiting": 0, "running": 0, "to_deliver": 5, "failed": 0})
        assert worker.process.poll() is None
    finally:
        again.stop()


def test_an_idle_worker_comes_back_after_redis_forgot_everything(queue: JobQueue, start_worker: StartWorker) -> None:
    start_worker()
    queue.redis.flushall()
    assert wait_for(queue.model_version) == "obedient@1"
    wait_for(lambda: len(SimpleWorker.all(connection=queue.redis, serializer="json")) == 1)
    queue.submit([make_job()])
    wait_for(lambda: answers_in(queue))


def test_a_missing_image_is_a_failure_that_names_it(
    queue: JobQueue, image_host: ImageHost, start_worker: StartWorker
) -> None:
    job = make_job(image_uri="/data/upload/1/gone.png")
    queue.submit([job])
    start_worker()
    [failure] = wait_for(queue.failures)
    assert failure.move == "annotator"
    assert failure.reason == "Label Studio has no /data/upload/1/gone.png."
    wait_for(lambda: queue.wait_until_settled(1, [job.key], timeout_s=0))

    image_host.pages["/data/upload/1/gone.png"] = (200, make_png())
    wait_for(lambda: queue.submit([job]) == 1)
    wait_for(lambda: answers_in(queue))
    assert queue.failures() == []


def test_an_image_that_is_away_is_asked_for_again(
    queue: JobQueue, image_host: ImageHost, start_worker: StartWorker
) -> None:
    image_host.down = True
    image_host.pages["/data/upload/1/a.png"] = (200, make_png())
    job = make_job(image_uri="/data/upload/1/a.png")
    queue.submit([job])
    start_worker()
    wait_for(lambda: ScheduledJobRegistry(queue=queue.gpu).get_job_count())
    assert queue.submit([job]) == 0, "a request that waits for its next attempt is in flight"
    assert queue.counts()["waiting"] == 1

    image_host.down = False
    enqueue_what_is_due(queue)
    assert [answer.job.key for answer in wait_for(lambda: answers_in(queue))] == [job.key]


def test_an_image_that_stays_away_is_a_failure_in_the_end(
    queue: JobQueue, image_host: ImageHost, start_worker: StartWorker
) -> None:
    image_host.down = True
    queue.submit([make_job(image_uri="/data/upload/1/a.png")])
    start_worker()
    while not queue.failures():
        enqueue_what_is_due(queue)
    [failure] = queue.failures()
    assert failure.move == "wait"
    assert len(image_host.asked) == 5


def test_what_breaks_inside_is_logged_and_told_by_its_number_alone(queue: JobQueue, start_worker: StartWorker) -> None:
    queue.submit([make_job(1, expressions=("break",)), make_job(2)])
    worker = start_worker()
    [failure] = wait_for(queue.failures)
    assert failure.move == "ours"
    assert "the model broke" not in failure.reason
    wait_for(lambda: answers_in(queue))
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    [line] = [line for line in lines if line["event"] == "prediction broke"]
    assert line["error_id"] in failure.reason
    assert line["task_id"] == 1
    assert line["exception"][0]["exc_value"] == "the model broke"


def test_neither_tokens_nor_images_nor_passwords_get_into_the_log(
    queue: JobQueue, image_host: ImageHost, start_worker: StartWorker
) -> None:
    image_host.pages["/data/upload/1/a.png"] = (200, make_png())
    queue.submit([
        make_job(1, image_uri="/data/upload/1/a.png"),
        make_job(2, image_uri="/data/upload/1/gone.png"),
        make_job(3, image_uri="http://127.0.0.1:9/a.png?X-Amz-Signature=4711"),
        make_job(4, expressions=("break",)),
    ])
    worker = start_worker()
    wait_for(lambda: len(queue.failures()) == 3)
    worker.signal(signal.SIGTERM)
    worker.process.wait(10)
    log = worker.log.read_text()
    image = make_image_uri().partition(",")[2]
    for secret in (TOKEN, "4711", image, image[:24], str(queue.settings.redis_url).split("@")[0]):
        assert secret not in log
    assert all(json.loads(line)["level"] for line in log.splitlines())
