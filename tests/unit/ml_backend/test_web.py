from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from ml_backend.web import BODY_LIMIT, create_app
from tests.factories import make_answer
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.contract import PredictJob
from workers.settings import Settings

CONFIG = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" value="$expression"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""
ELLIPSES = """<View><Image name="image" value="$image"/>
<EllipseLabels name="p" toName="image"><Label value="target"/></EllipseLabels></View>"""


def request(count: int = 1, **fields: Any) -> dict[str, Any]:
    data = {"image": "/data/upload/1/a.png", "expression": "the ship"}
    return {
        "tasks": [{"id": number, "data": data} for number in range(1, count + 1)],
        "project": "1.1795430836",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
        **fields,
    }


TYPED = {"context": {"result": [{"from_name": "prompt", "value": {"text": ["the ship"]}}]}}


@pytest.mark.parametrize("path", ["/setup", "/predict"])
def test_an_unusable_config_is_refused_in_the_status_line_which_is_all_that_label_studio_shows(
    client: FlaskClient, path: str
) -> None:
    response = client.post(path, json=request(label_config=ELLIPSES, schema=ELLIPSES))
    assert response.status_code == 422
    assert "draws with <EllipseLabels>" in response.status
    assert '<BrushLabels name="tag" toName="image">' in response.status
    assert response.get_json()["field"] == "label_config"


def test_a_reason_cannot_break_out_of_the_status_line(client: FlaskClient) -> None:
    config = '<View><Image name="b\u00fc&#10;ild\r\nX-Evil: 1" value="x"/></View>' + "ß" * 1000
    for xml in (config, ELLIPSES.replace("EllipseLabels", "EllipseLäbels")):
        response = client.post("/setup", json={"project": "1.1", "schema": xml})
        assert response.status_code == 422
        assert response.status.isascii()
        assert response.status.isprintable()
        assert len(response.status) < 500
        assert "X-Evil" not in response.headers


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/predict", {"project": "1.1", "label_config": CONFIG}, "tasks"),
        ("/predict", request() | {"tasks": [{"id": 1}]}, "tasks.0.data"),
        ("/predict", request() | {"tasks": [{"id": "one", "data": {}}]}, "tasks.0.id"),
        ("/predict", request() | {"tasks": None}, "tasks"),
        ("/predict", request() | {"project": "mine"}, "project"),
        ("/predict", request() | {"project": None}, "project"),
        ("/predict", request() | {"label_config": ""}, "label_config"),
        ("/predict", request() | {"params": {"context": "text"}}, "params.context"),
        ("/setup", {"project": "1.1"}, "schema"),
        ("/setup", {"project": "1.1", "schema": CONFIG, "extra_params": "{caption"}, "extra_params"),
        ("/setup", {"project": "1.1", "schema": CONFIG, "extra_params": [1]}, "extra_params"),
        ("/webhook", {"project": {"id": 1}}, "action"),
        ("/webhook", {"action": "ANNOTATION_CREATED", "project": {"title": "x"}}, "project.id"),
    ],
)
def test_a_field_that_will_not_do_is_named(client: FlaskClient, path: str, body: dict[str, Any], field: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert response.get_json()["field"] == field
    assert field in response.get_json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b'{"tasks": NaN', b"[" * 100_000])
def test_what_is_no_json_is_a_bad_request(client: FlaskClient, body: bytes) -> None:
    response = client.post("/predict", data=body)
    assert response.status_code == 400
    assert "not JSON" in response.get_json()["error"]


def test_a_value_that_was_sent_never_comes_back(client: FlaskClient) -> None:
    body = request() | {"project": "SECRET"}
    assert "SECRET" not in client.post("/predict", json=body).text


def test_no_tasks_get_no_results(client: FlaskClient) -> None:
    assert client.post("/predict", json=request(0)).get_json() == {"results": []}


def test_each_of_many_tasks_gets_its_result(client: FlaskClient, queue: StubQueue) -> None:
    assert client.post("/predict", json=request(500)).get_json() == {"results": [[]] * 500}
    assert [job.task_id for job in queue.waiting] == list(range(1, 501))


@pytest.mark.parametrize("field", ["tasks.4999.id", "project", "label_config"])
def test_of_many_tasks_none_is_taken_if_anything_will_not_do(client: FlaskClient, queue: StubQueue, field: str) -> None:
    body = request(5000)
    if field == "tasks.4999.id":
        body["tasks"][-1]["id"] = None
    else:
        body[field] = "<View/>"
    response = client.post("/predict", json=body)
    assert (response.status_code, response.get_json()["field"]) == (422, field)
    assert queue.waiting == []


def test_of_many_tasks_none_is_taken_if_there_is_no_room_for_the_last() -> None:
    settings = Settings(queue_limit=2000)
    queue = StubQueue(settings)
    client = create_app(settings, queue).test_client()
    assert client.post("/predict", json=request(2001)).status_code == 503
    assert queue.waiting == []
    assert client.post("/predict", json=request(1999)).status_code == 200
    assert client.post("/predict", json=request(2000)).status_code == 200, "1999 are on their way and need no room"
    assert len(queue.waiting) == 2000


def test_a_body_that_does_not_say_how_long_it_is_is_read_as_far_as_the_limit(settings: Settings) -> None:
    queue = StubQueue(settings)
    app = create_app(settings, queue)
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    text = json.dumps(request(500)).encode()
    for limit, status in [(len(text) + 1, 200), (len(text) // 2, 413)]:
        queue.waiting.clear()
        app.config["MAX_CONTENT_LENGTH"] = limit
        response = app.test_client().post("/predict", input_stream=io.BytesIO(text), environ_overrides=chunked)
        assert response.status_code == status
        assert len(queue.waiting) == (500 if status == 200 else 0)


def test_a_body_that_is_too_large_is_refused_unread(client: FlaskClient) -> None:
    response = client.post("/predict", environ_overrides={"CONTENT_LENGTH": str(BODY_LIMIT + 1)})
    assert response.status_code == 413


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("GET", "/predict"), ("POST", "/health")])
def test_other_addresses_get_a_sentence_as_well(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method)
    assert response.status_code in (404, 405)
    assert response.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/versions", None),
        ("POST", "/setup", {"project": "1.1", "schema": CONFIG}),
        ("POST", "/predict", request(3)),
        ("POST", "/predict", request(params=TYPED)),
        ("POST", "/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 1}}),
    ],
)
def test_without_redis_every_route_says_when_to_come_again(
    client: FlaskClient, queue: StubQueue, method: str, path: str, body: object
) -> None:
    queue.away = True
    response = client.open(path, method=method, json=body)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.get_json().keys() == {"error"}


def test_what_nobody_expected_is_a_500_with_an_id_and_its_traceback_in_the_log_alone(
    client: FlaskClient, queue: StubQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_job: PredictJob) -> None:
        raise RuntimeError("SECRET")

    queue.worker = broken
    response = client.post("/predict", json=request())
    assert response.status_code == 500
    said = response.get_json()
    assert said["id"] in said["error"]
    assert "SECRET" not in response.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.__dict__["error_id"] == said["id"]


def test_those_who_wait_leave_threads_for_health() -> None:
    settings = Settings(web_threads=5, interactive_wait_s=60, open_wait_s=60)
    queue = StubQueue(settings)
    app = create_app(settings, queue)
    waiter = threading.Thread(target=lambda: app.test_client().post("/predict", json=request(params=TYPED)))
    waiter.start()
    while not queue.waiting:
        time.sleep(0.005)
    [asked] = queue.waiting
    assert app.test_client().post("/predict", json=request()).get_json() == {"results": [[]]}
    [prediction] = app.test_client().post("/predict", json=request(params=TYPED)).get_json()["results"]
    assert prediction["result"] == []
    assert waiter.is_alive(), "the one place to wait is taken, and nobody else waited"
    queue.worker = make_answer
    queue.waiting.clear()
    queue.submit([asked])
    waiter.join()


def test_opened_tasks_leave_half_of_the_places_to_those_who_type() -> None:
    settings = Settings(web_threads=8, interactive_wait_s=60, open_wait_s=60)
    queue = StubQueue(settings)
    app = create_app(settings, queue)

    def open_task(number: int) -> None:
        app.test_client().post("/predict", json=request(tasks=[{**request()["tasks"][0], "id": number}]))

    opened = [threading.Thread(target=open_task, args=(number,)) for number in (1, 2, 3)]
    for one in opened:
        one.start()
    while len(queue.waiting) < 3 or sum(one.is_alive() for one in opened) > 2:
        time.sleep(0.005)  # The third is taken in like the others, and its answer waited for by nobody.
    queue.worker = make_answer
    [prediction] = app.test_client().post("/predict", json=request(params=TYPED)).get_json()["results"]
    assert prediction["result"], "half of the places are left"
    assert sum(one.is_alive() for one in opened) == 2
    queue.waiting.clear()
    for one in opened:
        one.join()


def test_the_answer_in_the_editor_is_json_that_label_studio_can_show(client: FlaskClient, queue: StubQueue) -> None:
    queue.worker = make_answer
    text = client.post("/predict", json=request(params=TYPED)).text
    [prediction] = json.loads(text)["results"]
    assert all(isinstance(byte, int) for byte in prediction["result"][0]["value"]["rle"])
    assert 0 <= prediction["score"] <= 1


def test_pointing_narrows_the_words_typed_before_it_until_they_are_deleted(
    client: FlaskClient, queue: StubQueue
) -> None:
    def asked(from_name: str, kind: str, **value: object) -> tuple[str, bool]:
        result = {"from_name": from_name, "to_name": "image", "type": kind, "value": value}
        client.post("/predict", json=request(params={"context": {"result": [result]}}))
        ask = seen[-1].asks[0]
        return ask.expression, ask.pointed is not None

    seen: list[PredictJob] = []
    queue.worker = lambda job: seen.append(job) or make_answer(job)  # type: ignore[func-returns-value]
    assert asked("point", "keypointlabels", x=10, y=10, keypointlabels=["target"]) == ("", True)
    assert asked("prompt", "textarea", text=["the ship"]) == ("the ship", False)
    assert asked("point", "keypointlabels", x=10, y=10, keypointlabels=["target"]) == ("the ship", True)
    seen.clear()
    with pytest.raises(IndexError):
        asked("prompt", "textarea", text=[])
    assert asked("point", "keypointlabels", x=10, y=10, keypointlabels=["target"]) == ("", True)
