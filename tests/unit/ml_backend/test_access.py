from __future__ import annotations

import base64

import pytest
from flask.testing import FlaskClient

from ml_backend import access
from ml_backend.web import create_app
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.settings import Settings, SettingsError

EVENT = {"action": "PROJECT_UPDATED", "project": {"id": 1, "updated_at": "2026-11-23T13:46:30Z"}}
ROUTES = [("GET", "/health"), ("GET", "/versions"), ("POST", "/setup"), ("POST", "/predict"), ("POST", "/webhook")]


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


@pytest.fixture
def settings() -> Settings:
    return Settings(basic_user="label-studio", basic_password="pass:word", open_wait_s=0)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Basic",
        "Basic !!",
        "Basic bm9ib2R5",
        "Bearer pass:word",
        "Token pass:word",
        basic("label-studio", "wrong"),
        basic("nobody", "pass:word"),
        basic("label-studio", ""),
        basic("label-studio", "pass:word "),
    ],
)
def test_without_the_right_name_and_password_no_route_answers(
    client: FlaskClient, queue: StubQueue, method: str, path: str, shown: str | None
) -> None:
    response = client.open(path, method=method, headers={} if shown is None else {"Authorization": shown}, json=EVENT)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith(("Basic", "Bearer"))
    assert response.get_json()["error"] in response.status
    assert "pass:word" not in response.text
    assert queue.events == []


def test_with_the_right_name_and_password_every_route_answers(client: FlaskClient, queue: StubQueue) -> None:
    for method, path in ROUTES:
        headers = {"Authorization": basic("label-studio", "pass:word")}
        assert client.open(path, method=method, headers=headers, json=EVENT).status_code in (200, 422)
    assert len(queue.events) == 1


def test_a_password_beyond_ascii_may_come_in_either_spelling() -> None:
    settings = Settings(basic_user="jürgen", basic_password="größe")
    for header in (basic("jürgen", "größe"), basic("jürgen", "größe", "latin-1")):
        assert access.knows_password(settings, header)
    assert not access.knows_password(settings, basic("jürgen", "gr??e"))
    greek = Settings(basic_user="a", basic_password="λόγος")
    assert access.knows_password(greek, basic("a", "λόγος"))
    assert not access.knows_password(greek, basic("a", "?????"))


def test_where_no_name_is_set_everybody_may_call() -> None:
    client = create_app(Settings(), StubQueue(Settings())).test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"Authorization": basic("a", "b")}).status_code == 200


def test_beside_a_password_the_secret_of_the_project_opens_the_webhook_too(
    client: FlaskClient, queue: StubQueue
) -> None:
    headers = {"Authorization": "Bearer " + access.install(queue, 1)}
    assert client.post("/webhook", json=EVENT, headers=headers).get_json() == {"status": "kept"}
    others = {"action": "PROJECT_UPDATED", "project": {"id": 2}}
    training = {"action": "START_TRAINING", "project": {"id": 1}}
    for body in (others, training, {"action": "PROJECT_UPDATED"}):
        assert client.post("/webhook", json=body, headers=headers).status_code == 401
    assert client.get("/health", headers=headers).status_code == 401


def test_a_stranger_is_refused_before_the_body_is_read(client: FlaskClient) -> None:
    assert client.post("/predict", data=b"not json").status_code == 401
    assert client.post("/webhook", data=b"not json").status_code == 401


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"RSREFSEG_BASIC_USER": "a"}, "both or neither"),
        ({"RSREFSEG_BASIC_PASSWORD": "secret"}, "both or neither"),
        ({"RSREFSEG_BASIC_USER": "a:b", "RSREFSEG_BASIC_PASSWORD": "secret"}, "RSREFSEG_BASIC_USER will not do"),
    ],
)
def test_half_of_a_login_is_no_setting(environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as refused:
        Settings.load(environ)
    assert "secret" not in str(refused.value)
