"""Each row of what Label Studio 1.23.2 asks of a backend, over the stub queue and over the real one alike."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from rq.job import Job
from rq.results import Result

from ml_backend import access
from ml_backend.web import KEPT_EVENTS, create_app
from tests.factories import make_answer
from tests.unit.ml_backend.stub_queue import StubQueue
from tests.with_redis.conftest import requests_in
from workers.contract import Answer, PredictJob, Refusal, Reply
from workers.queue import Event, JobQueue
from workers.settings import Settings

RECORDED = Path(__file__).parents[1] / "recorded"
EVENTS = "rsrefseg:events"
LONG_S = 60.0


def recorded(name: str) -> dict[str, Any]:
    """What Label Studio really sent."""
    return json.loads((RECORDED / f"{name}.json").read_text())


class Backstage:
    """What Label Studio does not see: the queue, and whoever works it."""

    def __init__(self, queue: JobQueue | StubQueue, settings: Settings) -> None:
        self.queue = queue
        self.client: FlaskClient = create_app(settings, queue).test_client()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.get_json()

    def waiting(self) -> list[PredictJob]:
        if isinstance(self.queue, StubQueue):
            return list(self.queue.waiting)
        return requests_in(self.queue)

    def events(self) -> list[Event]:
        if isinstance(self.queue, StubQueue):
            return self.queue.events
        return [Event.model_validate_json(fields[b"event"]) for _, fields in self.queue.redis.xrange(EVENTS)]

    def work(self, reply: Reply) -> None:
        """What a worker and then the courier do with a job."""
        if isinstance(self.queue, StubQueue):
            self.queue._replies[reply.job.key] = reply
        elif reply.job.interactive:
            job = Job.fetch(f"reply-{reply.job.key}", connection=self.queue.redis, serializer="json")
            self.queue.gpu.remove(job.id)
            Result.create(job, Result.Type.SUCCESSFUL, 60, return_value=reply.model_dump_json())
        else:
            self.queue.redis.lpop(self.queue.gpu.key)
        if not reply.job.interactive:
            self.queue.settle(reply.job)


@pytest.fixture(params=["stub", "redis"])
def backstage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backstage]:
    if request.param == "stub":
        settings = Settings(open_wait_s=0.3, interactive_wait_s=1, queue_limit=3)
        yield Backstage(StubQueue(settings), settings)
    else:
        queue: JobQueue = request.getfixturevalue("queue")
        settings = queue.settings.model_copy(update={"open_wait_s": 0.3, "interactive_wait_s": 1, "queue_limit": 3})
        yield Backstage(JobQueue(queue.redis, settings), settings)


def waits_long(backstage: Backstage) -> None:
    """Whoever is answered in less than `LONG_S` from now on did not wait for a worker."""
    patient = backstage.queue.settings.model_copy(update={"open_wait_s": LONG_S, "interactive_wait_s": LONG_S})
    backstage.client = create_app(patient, backstage.queue).test_client()


def one_task(**data: Any) -> dict[str, Any]:
    request = recorded("predict")
    request["tasks"] = request["tasks"][:1]
    request["tasks"][0]["data"] |= data
    return request


def answer_soon(backstage: Backstage, reply: Any) -> threading.Thread:
    """Answer the first job that comes, as `reply` says."""

    def work() -> None:
        while not (jobs := backstage.waiting()):
            time.sleep(0.01)
        backstage.work(reply(jobs[0]))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_health_says_up_and_which_version_is_served(backstage: Backstage) -> None:
    assert backstage.client.get("/health").get_json() == {"status": "UP"}
    backstage.queue.announce("tiny@1")
    assert backstage.client.get("/health").get_json() == {"status": "UP", "model_version": "tiny@1"}


def test_setup_leaves_the_version_out_until_a_worker_announced_one(backstage: Backstage) -> None:
    assert backstage.post("/setup", recorded("setup")) == {}
    backstage.queue.announce("tiny@1")
    backstage.queue.announce("tiny@2")
    assert backstage.post("/setup", recorded("setup")) == {"model_version": "tiny@2"}
    assert backstage.client.get("/versions").get_json() == {"versions": ["tiny@2", "tiny@1"]}


def test_counts_says_what_is_on_its_way(backstage: Backstage) -> None:
    backstage.post("/predict", recorded("predict"))
    counts = backstage.client.get("/counts").get_json()
    assert counts == {"waiting": 2, "running": 0, "to_deliver": 0, "failed": 0}


def test_a_project_with_a_champion_is_promised_it_and_asks_for_it(backstage: Backstage) -> None:
    backstage.queue.announce("tiny@1")
    sent = recorded("setup")
    project = int(sent["project"].partition(".")[0])
    backstage.queue.keep_champion(project, "tiny@c")
    assert backstage.post("/setup", sent) == {"model_version": "tiny@c"}
    assert backstage.post("/setup", {**sent, "project": f"{project + 1}.0"}) == {"model_version": "tiny@1"}
    assert backstage.client.get("/health").get_json()["model_version"] == "tiny@1", "it is asked for no project"
    backstage.post("/predict", recorded("predict"))
    assert {job.model_version for job in backstage.waiting()} == {"tiny@c"}
    backstage.queue.keep_champion(project, None)
    assert backstage.post("/setup", sent) == {"model_version": "tiny@1"}


def test_many_tasks_are_taken_at_once_with_an_empty_list_each(backstage: Backstage) -> None:
    backstage.queue.announce("tiny@1")
    waits_long(backstage)
    started = time.monotonic()
    assert backstage.post("/predict", recorded("predict")) == {"results": [[], []]}
    assert time.monotonic() - started < LONG_S, "nobody waits for a worker"
    jobs = backstage.waiting()
    assert [(job.task_id, job.asks[0].expression, job.asks[0].label) for job in jobs] == [
        (3, "the airplane at the gate", "airplane"),
        (4, "the ship at the pier", "ship"),
    ]
    assert {job.model_version for job in jobs} == {"tiny@1"}
    assert {job.project_id for job in jobs} == {3}


def test_what_people_and_models_said_about_a_task_is_dropped_at_the_door(backstage: Backstage) -> None:
    backstage.post("/predict", recorded("predict"))
    kept = "".join(job.model_dump_json() for job in backstage.waiting())
    assert '"r1"' not in kept
    assert "57,27,254" not in kept.replace(" ", "")


def test_a_task_retrieved_again_is_not_asked_again(backstage: Backstage) -> None:
    for _ in range(3):
        backstage.post("/predict", recorded("predict"))
    assert len(backstage.waiting()) == 2


def test_many_people_may_retrieve_the_same_tasks_at_once(backstage: Backstage) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: backstage.post("/predict", recorded("predict")), range(8)))
    assert len(backstage.waiting()) == 2


def test_an_opened_task_waits_a_little_for_its_delivery_and_never_gets_regions(backstage: Backstage) -> None:
    waits_long(backstage)
    worker = answer_soon(backstage, make_answer)
    started = time.monotonic()
    assert backstage.post("/predict", one_task()) == {"results": [[]]}
    assert time.monotonic() - started < LONG_S, "it was delivered, so nobody waits longer"
    worker.join()


def test_an_opened_task_whose_delivery_takes_too_long_gets_the_same_answer(backstage: Backstage) -> None:
    started = time.monotonic()
    assert backstage.post("/predict", one_task()) == {"results": [[]]}
    assert time.monotonic() - started >= 0.3


def test_an_opened_task_goes_before_those_that_wait(backstage: Backstage) -> None:
    backstage.post("/predict", recorded("predict"))
    backstage.post("/predict", one_task(expression="the new hangar"))
    assert backstage.waiting()[0].asks[0].expression == "the new hangar"


def test_typed_text_is_answered_with_one_dict_of_regions(backstage: Backstage) -> None:
    worker = answer_soon(backstage, make_answer)
    answer = backstage.post("/predict", recorded("predict_typed"))
    worker.join()
    [prediction] = answer["results"]
    [region] = prediction["result"]
    assert region["meta"]["text"] == ["the red ship"], "the newest text of the right text area"
    assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "brushlabels")
    assert (prediction["score"], prediction["model_version"]) == (0.8, "tiny@0")


def test_typed_text_that_nobody_answers_in_time_gets_an_empty_dict(backstage: Backstage) -> None:
    backstage.queue.announce("tiny@1")
    [prediction] = backstage.post("/predict", recorded("predict_typed"))["results"]
    assert prediction == {"result": [], "score": 0.0, "model_version": "tiny@1"}
    assert backstage.waiting() == [], "nobody waits for it any more"


def test_typed_text_that_a_worker_refuses_gets_an_empty_dict(
    backstage: Backstage, caplog: pytest.LogCaptureFixture
) -> None:
    worker = answer_soon(backstage, lambda job: Refusal(job=job, move="annotator", reason="There is no such image."))
    assert backstage.post("/predict", recorded("predict_typed"))["results"][0]["result"] == []
    worker.join()
    assert "There is no such image." in {record.__dict__.get("reason") for record in caplog.records}


def test_no_text_in_the_editor_gets_an_empty_dict(backstage: Backstage) -> None:
    request = recorded("predict_typed")
    request["params"]["context"] = {"result": []}
    assert backstage.post("/predict", request)["results"][0]["result"] == []
    assert backstage.waiting() == []


def test_tasks_that_cannot_be_asked_are_listed_with_their_reason_until_they_are_repaired(backstage: Backstage) -> None:
    request = recorded("predict")
    request["tasks"][0]["data"].pop("expression")
    request["tasks"][1]["data"].pop("image")
    assert backstage.post("/predict", request) == {"results": [[], []]}
    assert backstage.waiting() == []
    reasons = {failure.task_id: failure.reason for failure in backstage.queue.failures(project_id=3)}
    assert "no expression" in reasons[3]
    assert "no image" in reasons[4]

    request["tasks"][1]["data"]["image"] = "/data/upload/1/b.png"
    assert backstage.post("/predict", request) == {"results": [[], []]}
    assert [failure.task_id for failure in backstage.queue.failures()] == [3]
    assert [job.task_id for job in backstage.waiting()] == [4]


def test_one_task_that_cannot_be_asked_is_answered_at_once(backstage: Backstage) -> None:
    waits_long(backstage)
    started = time.monotonic()
    assert backstage.post("/predict", one_task(expression="")) == {"results": [[]]}
    assert time.monotonic() - started < LONG_S


def test_extra_parameters_of_setup_name_the_field_of_the_expression(backstage: Backstage) -> None:
    setup = recorded("setup")
    for extra_params in ({"expression_field": "caption"}, '{"expression_field": "caption"}'):
        backstage.post("/setup", setup | {"extra_params": extra_params})
    backstage.post("/predict", one_task(caption="a ship far out"))
    assert backstage.waiting()[0].asks[0].expression == "a ship far out"
    backstage.post("/setup", setup | {"extra_params": None})
    backstage.post("/predict", one_task(caption="a ship far out"))
    assert backstage.waiting()[0].asks[0].expression == "the airplane at the gate"


def test_a_restarted_web_process_still_knows_the_field_of_the_expression(backstage: Backstage) -> None:
    backstage.post("/setup", recorded("setup") | {"extra_params": {"expression_field": "caption"}})
    backstage.client = create_app(backstage.queue.settings, backstage.queue).test_client()
    backstage.post("/predict", one_task(caption="a ship far out"))
    assert backstage.waiting()[0].asks[0].expression == "a ship far out"


def test_a_full_queue_says_when_to_come_again_and_takes_nothing(backstage: Backstage) -> None:
    request = recorded("predict")
    request["tasks"] = [request["tasks"][0] | {"id": number} for number in range(4)]
    response = backstage.client.post("/predict", json=request)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "ask again in" in response.get_json()["error"]
    assert backstage.waiting() == []


@pytest.mark.parametrize(
    ("name", "annotations", "tasks"),
    [
        ("webhook_annotation_created", (2,), (3,)),
        ("webhook_annotation_updated", (2,), (3,)),
        ("webhook_annotations_created", (3,), (3,)),
        ("webhook_annotations_deleted", (2,), ()),
        ("webhook_tasks_created", (), (3, 4)),
        ("webhook_tasks_deleted", (), (4,)),
        ("webhook_project_updated", (), ()),
        ("webhook_start_training", (), ()),
    ],
)
def test_a_webhook_is_kept_with_its_ids_and_nothing_else(
    backstage: Backstage, name: str, annotations: tuple[int, ...], tasks: tuple[int, ...]
) -> None:
    body = recorded(name)
    assert backstage.post("/webhook", body) == {"status": "kept"}
    [event] = backstage.events()
    assert event.action == body["action"]
    assert (event.project_id, event.annotation_ids, event.task_ids) == (3, annotations, tasks)
    assert "SECRET-TOKEN" not in event.model_dump_json()


@pytest.mark.parametrize("body", [{"action": "REVIEW_CREATED", "project": {"id": 3}}, {"action": "ANNOTATION_CREATED"}])
def test_an_event_that_says_nothing_to_us_is_acknowledged(backstage: Backstage, body: dict[str, Any]) -> None:
    assert backstage.post("/webhook", body) == {"status": "ignored"}
    assert backstage.events() == []


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("webhook_*.json")))
def test_an_event_that_comes_twice_is_kept_once_unless_it_is_a_wish(backstage: Backstage, name: str) -> None:
    body = recorded(name)
    for _ in range(2):
        assert backstage.post("/webhook", body) == {"status": "kept"}
    assert len(backstage.events()) == (2 if body["action"] == "START_TRAINING" else 1)


def test_a_later_change_of_the_same_annotation_is_another_event(backstage: Backstage) -> None:
    body = recorded("webhook_annotation_updated")
    backstage.post("/webhook", body)
    body["annotation"]["updated_at"] = "2026-11-23T14:00:00.000001Z"
    backstage.post("/webhook", body)
    body["annotation"]["updated_at"] = None
    backstage.post("/webhook", body)
    backstage.post("/webhook", body)
    assert len(backstage.events()) == 4


def test_the_webhook_of_a_project_with_a_secret_must_show_it(backstage: Backstage) -> None:
    body = recorded("webhook_annotation_created")
    secret = access.install(backstage.queue, 3)
    others = access.install(backstage.queue, 4)
    for shown in (None, "", "Bearer", "Bearer ", f"Bearer {others}", secret, f"Basic {secret}", "Bearer \u00e4"):
        headers = {} if shown is None else {"Authorization": shown}
        refused = backstage.client.post("/webhook", json=body, headers=headers)
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer"), shown
        assert "doctor --project ID --fix" in refused.get_json()["error"]
    assert backstage.events() == []
    welcome = backstage.client.post("/webhook", json=body, headers={"Authorization": f"Bearer {secret}"})
    assert welcome.get_json() == {"status": "kept"}
    assert len(backstage.events()) == 1


def test_a_project_without_a_secret_and_a_wish_for_a_training_need_none(backstage: Backstage) -> None:
    access.install(backstage.queue, 3)
    body = recorded("webhook_annotation_created")
    assert backstage.post("/webhook", recorded("webhook_start_training")) == {"status": "kept"}
    assert backstage.post("/webhook", body | {"project": {"id": 5}}) == {"status": "kept"}
    access.forget(backstage.queue, 3)
    assert backstage.post("/webhook", body) == {"status": "kept"}


def test_a_new_secret_ends_the_old_one_and_redis_knows_neither(backstage: Backstage) -> None:
    body = recorded("webhook_project_updated")
    assert not access.installed(backstage.queue, 3)
    old, new = (access.install(backstage.queue, 3) for _ in range(2))
    assert access.installed(backstage.queue, 3)
    statuses = [
        backstage.client.post("/webhook", json=body, headers={"Authorization": f"Bearer {secret}"}).status_code
        for secret in (old, new)
    ]
    assert statuses == [401, 200]
    assert new not in (backstage.queue.webhook_digest(3) or new)


def test_every_recorded_event_is_one_that_is_kept() -> None:
    actions = {recorded(path.stem)["action"] for path in RECORDED.glob("webhook_*.json")}
    assert actions == KEPT_EVENTS


def test_a_webhook_is_answered_well_within_label_studios_second(backstage: Backstage) -> None:
    body = recorded("webhook_annotation_created")
    body["annotation"]["result"] *= 2000

    def seconds() -> float:
        started = time.monotonic()
        backstage.post("/webhook", body)
        return time.monotonic() - started

    assert min(seconds() for _ in range(5)) < 0.5, "the best of five, since the machine may have other things to do"


def test_an_answer_is_the_workers_own(backstage: Backstage) -> None:
    """The stub's delivery must mean what the real one's does."""
    backstage.post("/predict", one_task())
    [job] = backstage.waiting()
    answer: Answer = make_answer(job)
    backstage.work(answer)
    assert backstage.queue.wait_until_settled(1, [job.key], timeout_s=0)
    backstage.post("/predict", one_task())
    assert [waiting.key for waiting in backstage.waiting()] == [job.key], "once delivered it may be asked again"
