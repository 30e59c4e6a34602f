"""Each answer reaches Label Studio exactly once, whoever misbehaves or dies when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from rq import Retry

from ml_backend.courier import Courier, Patience
from ml_backend.label_studio import LabelStudio
from tests.factories import OUTPUT, make_answer, make_job
from tests.stand_in_label_studio import (
    KEY,
    Behaviour,
    StandInLabelStudio,
    answers,
    carries_out_late,
    hangs_up,
    hangs_up_after,
    is_slow,
    stand_in_label_studio,
)
from tests.with_redis.conftest import wait_for
from workers.contract import Answer, Ask, Chunk, Output, OutputType, PredictJob
from workers.ports import free_port
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis

HURRY = Patience(hold_s=5, pause_s=0.01, longest_pause_s=0.05, later_s=60, late_s=120, rounds_of_errors=1)


@pytest.fixture
def courier(queue: JobQueue, label_studio: StandInLabelStudio) -> Courier:
    return Courier(queue, LabelStudio(label_studio.url, KEY, timeout_s=1), HURRY)


def kept(label_studio: StandInLabelStudio, task_id: int = 7) -> list[tuple[str, int]]:
    """Version and number of regions of each prediction of a task."""
    return [
        (one["model_version"], len(one["result"]))
        for one in label_studio.predictions.values()
        if one["task"] == task_id
    ]


def creates(label_studio: StandInLabelStudio) -> int:
    return label_studio.calls.count("POST /api/predictions/")


def test_an_answer_becomes_one_prediction_and_is_settled(
    courier: Courier, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    answer = make_answer(make_job(expressions=("a", "b")))
    queue.submit([answer.job])
    assert courier.deliver(answer) is None
    [prediction] = label_studio.predictions.values()
    assert (prediction["task"], prediction["project"], prediction["score"]) == (7, 1, 0.8)
    assert kept(label_studio) == [("tiny@0", 2)]
    assert queue.failures() == []


def test_an_answer_delivered_again_changes_nothing(courier: Courier, label_studio: StandInLabelStudio) -> None:
    for _ in range(3):
        assert courier.deliver(make_answer()) is None
    assert (creates(label_studio), kept(label_studio)) == (1, [("tiny@0", 1)])


@pytest.mark.parametrize("kind", ["brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels"])
def test_regions_of_every_control_and_their_texts_are_known_again(
    courier: Courier, label_studio: StandInLabelStudio, kind: OutputType
) -> None:
    label_studio.config = f"""<View><Image name="image" value="$image"/>
    <{kind} name="tag" toName="image"><Label value="target"/></{kind}>
    <TextArea name="words" toName="image" perRegion="true"/></View>"""
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = mask[12:18, 12:18] = True
    output = Output(from_name="tag", to_name="image", type=kind, words_name="words", instances=True)
    job = make_job(asks=(Ask(expression="all ships", label="target", output=output),))
    for _ in range(2):
        courier.deliver(make_answer(job, mask))
    assert (creates(label_studio), kept(label_studio)) == (1, [("tiny@0", 4)])


def test_an_answer_without_regions_is_delivered_once_too(courier: Courier, label_studio: StandInLabelStudio) -> None:
    for _ in range(2):
        courier.deliver(make_answer(mask=np.zeros((6, 8), bool)))
    assert (creates(label_studio), kept(label_studio)) == (1, [("tiny@0", 0)])


def test_a_new_question_replaces_the_old_answer_of_the_same_version(
    courier: Courier, label_studio: StandInLabelStudio
) -> None:
    courier.deliver(make_answer(make_job(expressions=("the ship",))))
    courier.deliver(make_answer(make_job(expressions=("the pier", "the crane"))))
    assert kept(label_studio) == [("tiny@0", 2)]


def test_other_versions_other_tasks_and_other_peoples_predictions_stay(
    courier: Courier, label_studio: StandInLabelStudio
) -> None:
    label_studio.predictions[1] = {"id": 1, "task": 7, "model_version": "theirs", "result": []}
    courier.deliver(make_answer(model_version="tiny@0"))
    courier.deliver(make_answer(model_version="tiny@1"))
    courier.deliver(make_answer(make_job(8)))
    assert kept(label_studio) == [("theirs", 0), ("tiny@0", 1), ("tiny@1", 1)]
    assert kept(label_studio, 8) == [("tiny@0", 1)]


def test_doubles_that_are_already_there_are_removed(courier: Courier, label_studio: StandInLabelStudio) -> None:
    courier.deliver(make_answer())
    [one] = label_studio.predictions.values()
    label_studio.predictions |= {2: one | {"id": 2}, 3: one | {"id": 3}}
    courier.deliver(make_answer())
    assert list(label_studio.predictions) == [1]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_label_studio_that_cannot_answer_now_is_asked_again(
    courier: Courier, label_studio: StandInLabelStudio, status: int
) -> None:
    label_studio.misbehave("GET", answers(status), answers(status))
    label_studio.misbehave("POST", answers(status))
    courier.deliver(make_answer())
    assert kept(label_studio) == [("tiny@0", 1)]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("behaviour", [hangs_up, hangs_up_after, is_slow(0.8)], ids=["before", "after", "too slow"])
def test_a_connection_lost_at_any_moment_leaves_one_prediction(
    queue: JobQueue, label_studio: StandInLabelStudio, method: str, behaviour: Behaviour
) -> None:
    courier = Courier(queue, LabelStudio(label_studio.url, KEY, timeout_s=0.5), HURRY)
    courier.deliver(make_answer(make_job(expressions=("the old question",))))
    label_studio.misbehave(method, behaviour)
    again = courier.deliver(make_answer())
    time.sleep(0.5)
    assert bool(again) == (method == "POST"), "it looks once more where a create may still be carried out"
    if again:
        assert courier.deliver(make_answer()) is None
    assert kept(label_studio) == [("tiny@0", 1)]


def test_a_create_that_is_carried_out_late_is_found_and_removed(
    courier: Courier, label_studio: StandInLabelStudio
) -> None:
    label_studio.misbehave("POST", carries_out_late(0.5))
    again = courier.deliver(make_answer())
    assert isinstance(again, Retry), "it got no answer, so it will look once more"
    assert again.intervals == [HURRY.late_s]
    wait_for(lambda: len(label_studio.predictions) == 2)
    assert courier.deliver(make_answer()) is None
    assert list(label_studio.predictions) == [1]


def test_label_studio_that_is_down_for_a_while_gets_its_prediction_when_it_is_back(queue: JobQueue) -> None:
    port = free_port()
    with stand_in_label_studio(port) as gone:
        pass
    courier = Courier(queue, LabelStudio(gone.url, KEY, timeout_s=1), HURRY)
    outcome: list[Retry | None] = []
    delivery = threading.Thread(target=lambda: outcome.append(courier.deliver(make_answer())))
    delivery.start()
    time.sleep(0.3)
    with stand_in_label_studio(port) as back:
        delivery.join()
        assert kept(back) == [("tiny@0", 1)]
    assert outcome == [None], "a refused connection carries nothing out, so nobody looks again"


def test_label_studio_that_stays_away_gets_its_prediction_later_and_nothing_is_lost(queue: JobQueue) -> None:
    with stand_in_label_studio() as gone:
        pass
    courier = Courier(queue, LabelStudio(gone.url, KEY), Patience(hold_s=0.1, pause_s=0.01))
    again = courier.deliver(make_answer())
    assert isinstance(again, Retry)
    assert again.intervals == [60]
    assert queue.failures() == []


def test_a_refused_key_is_named_and_the_delivery_waits(
    courier: Courier, label_studio: StandInLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    label_studio.key = "another"
    threading.Timer(0.2, lambda: setattr(label_studio, "key", KEY)).start()
    assert courier.deliver(make_answer()) is None
    assert kept(label_studio) == [("tiny@0", 1)]
    reasons = {str(record.__dict__.get("reason")) for record in caplog.records}
    assert any("LABEL_STUDIO_API_KEY" in reason for reason in reasons)
    assert not any(KEY in reason for reason in reasons)


def test_a_deleted_task_ends_as_a_failure_with_its_reason(
    courier: Courier, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.tasks.discard(7)
    assert courier.deliver(make_answer()) is None
    [failure] = queue.failures()
    assert (failure.stage, failure.task_id) == ("deliver", 7)
    assert "no longer in Label Studio" in failure.reason
    assert queue.wait_until_settled(1, [make_job().key], timeout_s=0)


def test_a_mask_that_the_changed_config_does_not_take_ends_as_a_failure(
    courier: Courier, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    job = make_job(asks=(Ask(expression="the ship", label="ship", output=OUTPUT),))
    assert courier.deliver(make_answer(job)) is None
    [failure] = queue.failures()
    assert "labeling config of project 1 was changed" in failure.reason
    assert label_studio.predictions == {}

    label_studio.config = label_studio.config.replace("target", "ship")
    assert courier.deliver(make_answer(job)) is None
    assert queue.failures() == []
    assert kept(label_studio) == [("tiny@0", 1)]


@pytest.mark.parametrize("status", [400, 413])
def test_a_prediction_that_label_studio_refuses_ends_as_a_failure(
    courier: Courier, queue: JobQueue, label_studio: StandInLabelStudio, status: int
) -> None:
    label_studio.misbehave("POST", answers(status))
    assert courier.deliver(make_answer()) is None
    assert f"({status})" in queue.failures()[0].reason


def test_a_prediction_that_label_studio_breaks_over_each_time_ends_as_a_failure(
    courier: Courier, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    label_studio.misbehave("POST", *[answers(500)] * 5)
    assert courier.deliver(make_answer()) is None
    [failure] = queue.failures()
    assert (failure.move, failure.stage) == ("ours", "deliver")
    assert "answered 500" in failure.reason


def test_two_couriers_with_the_same_answer_leave_one_prediction(
    queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    couriers = [Courier(queue, LabelStudio(label_studio.url, KEY), HURRY) for _ in range(4)]
    label_studio.misbehave("GET", *[is_slow(0.1)] * 8)
    outcomes: list[Retry | None] = []
    threads = [threading.Thread(target=lambda c=c: outcomes.append(c.deliver(make_answer()))) for c in couriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (creates(label_studio), kept(label_studio)) == (1, [("tiny@0", 1)])
    busy = [outcome for outcome in outcomes if outcome]
    assert [again.intervals for again in busy] == [[HURRY.busy_s]] * 3


def test_a_courier_that_is_asked_to_leave_hands_back_what_waits(queue: JobQueue) -> None:
    with stand_in_label_studio() as gone:
        pass
    courier = Courier(queue, LabelStudio(gone.url, KEY))
    threading.Timer(0.3, lambda: setattr(courier, "leaving", True)).start()
    started = time.monotonic()
    again = courier.deliver(make_answer())
    assert time.monotonic() - started < 5
    assert isinstance(again, Retry)
    assert (again.intervals, again.enqueue_at_front) == ([0], True)


# From here on with couriers in processes of their own.

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "courier.log"


@pytest.fixture
def start(redis_server: EmbeddedRedis, label_studio: StandInLabelStudio, log: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start_one() -> subprocess.Popen[bytes]:
        ours = {
            "REDIS_URL": redis_server.url,
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": KEY,
            "OMP_NUM_THREADS": "1",
        }
        script = str(Path(__file__).with_name("courier_process.py"))
        before = log.read_text().count("Listening on") if log.exists() else 0
        with log.open("ab") as file:
            started.append(subprocess.Popen([sys.executable, script], env=os.environ | ours, stderr=file))
        wait_for(lambda: log.read_text().count("Listening on") > before)
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def in_flight(queue: JobQueue, job: PredictJob) -> bool:
    return not queue.wait_until_settled(1, [job.key], timeout_s=0)


def deliveries_left(queue: JobQueue) -> int:
    return queue.counts()["to_deliver"]


def test_answers_on_the_queue_are_delivered_and_leave_it(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    batch: list[Answer] = [make_answer(make_job(task_id)) for task_id in (7, 8)]
    queue.deliver(batch[0])
    courier = start()
    queue.deliver(batch[1])
    wait_for(lambda: len(label_studio.predictions) == 2)
    wait_for(lambda: deliveries_left(queue) == 0)
    assert not any(in_flight(queue, answer.job) for answer in batch)
    courier.terminate()
    assert courier.wait(10) == 0


def test_a_courier_killed_after_label_studio_stored_leaves_one_prediction(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.misbehave("POST", lambda carry: (carry(), time.sleep(30))[0])
    queue.deliver(make_answer())
    courier = start()
    label_studio.stored.wait(20)
    courier.kill()
    courier.wait()
    assert deliveries_left(queue) == 1

    start()
    wait_for(lambda: deliveries_left(queue) == 0, timeout_s=30)
    assert kept(label_studio) == [("tiny@0", 1)]
    assert label_studio.most == 1


def test_sigterm_lets_the_delivery_in_hand_finish(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.misbehave("POST", is_slow(1))
    queue.deliver(make_answer())
    courier = start()
    wait_for(lambda: creates(label_studio))
    courier.send_signal(signal.SIGTERM)
    assert courier.wait(10) == 0
    assert kept(label_studio) == [("tiny@0", 1)]
    assert deliveries_left(queue) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_courier_ends_at_once(start: Start, stop: signal.Signals) -> None:
    courier = start()
    courier.send_signal(stop)
    assert courier.wait(5) == 0


def test_sigterm_while_label_studio_is_away_puts_the_delivery_back(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.key = "another"
    queue.deliver(make_answer())
    courier = start()
    time.sleep(0.5)
    courier.send_signal(signal.SIGTERM)
    assert courier.wait(10) == 0
    assert deliveries_left(queue) == 1

    label_studio.key = KEY
    start()
    # Not once no delivery is left: it is on no queue for a moment while it is taken up again.
    wait_for(lambda: kept(label_studio) == [("tiny@0", 1)])
    wait_for(lambda: deliveries_left(queue) == 0)


def test_a_late_double_is_removed_by_the_courier_itself(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.misbehave("POST", carries_out_late(0.5))
    queue.deliver(make_answer())
    start()
    wait_for(lambda: label_studio.most == 2)
    # Not once no delivery is left: the second look is on no queue for a moment while it is put off.
    wait_for(lambda: list(label_studio.predictions) == [1])
    wait_for(lambda: deliveries_left(queue) == 0)


def test_a_courier_outlives_its_redis(
    queue: JobQueue, label_studio: StandInLabelStudio, redis_server: EmbeddedRedis, start: Start
) -> None:
    courier = start()
    os.kill(redis_server.pid, signal.SIGKILL)
    time.sleep(1.5)
    again = EmbeddedRedis.start(redis_server.directory)
    assert again.url == redis_server.url
    queue.deliver(make_answer())
    wait_for(lambda: kept(label_studio) == [("tiny@0", 1)])
    assert courier.poll() is None


def test_the_job_of_a_dead_gpu_worker_comes_back_though_no_worker_is_alive(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    job = make_job()
    queue.submit([job])
    [rq_job] = queue.gpu.get_jobs()
    queue.gpu.remove(rq_job)
    with queue.redis.pipeline() as pipe:
        rq_job.prepare_for_execution("dead", pipeline=pipe)
        pipe.zadd(queue.gpu.started_job_registry.key, {f"{rq_job.id}:0": time.time() - 1})
        pipe.execute()
    assert queue.gpu.count == 0
    start()
    wait_for(lambda: queue.gpu.count == 1)
    assert in_flight(queue, job)


def test_a_delivery_whose_courier_died_before_it_began_is_made_by_the_next(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    queue.deliver(make_answer())
    queue.redis.lmove(queue.label_studio.key, queue.label_studio.intermediate_queue_key)
    start()
    wait_for(lambda: label_studio.predictions)


def test_a_delayed_job_goes_on_its_way_while_the_courier_waits_for_label_studio(
    queue: JobQueue, label_studio: StandInLabelStudio, start: Start
) -> None:
    label_studio.key = "another"
    queue.deliver(make_answer())
    queue.gpu.enqueue_in(timedelta(seconds=1), "workers.predict.work", Chunk(requests=(make_job(8),)).model_dump_json())
    start()
    wait_for(lambda: queue.gpu.count == 1)
