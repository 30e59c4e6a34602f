"""Who asks too often is told to wait, whichever web process they ask, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend.web import create_app
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis


def client(queue: JobQueue, **changed: Any) -> FlaskClient:
    settings = queue.settings.model_copy(update=changed)
    return create_app(settings, queue, queue.redis.connection_pool).test_client()


def test_one_address_is_limited_over_all_web_processes_and_told_when_to_ask_again(queue: JobQueue) -> None:
    first, second = client(queue, rate_limit=20), client(queue, rate_limit=20)
    answers = [one.get("/versions") for _ in range(15) for one in (first, second)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 0
    assert "error" in refused[0].get_json()
    assert second.get("/versions", environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200


def test_passwords_are_not_tried_for_ever(queue: JobQueue) -> None:
    locked = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=5)
    guesses = [locked.get("/versions", auth=("me", f"guess {number}")).status_code for number in range(8)]
    assert guesses == [401] * 5 + [429] * 3
    elsewhere = locked.get("/versions", auth=("me", "pw"), environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.status_code == 200


def test_those_who_know_the_password_may_ask_as_often_as_they_like(queue: JobQueue) -> None:
    locked = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=3)
    assert {locked.get("/versions", auth=("me", "pw")).status_code for _ in range(10)} == {200}


def test_no_limit_is_kept_where_none_is_wanted(queue: JobQueue) -> None:
    free = client(queue, rate_limit=0, guess_limit=0)
    assert {free.get("/versions").status_code for _ in range(50)} == {200}


@pytest.mark.filterwarnings("ignore")
def test_without_redis_the_answer_is_still_that_redis_is_away(queue: JobQueue, redis_server: EmbeddedRedis) -> None:
    asked = client(queue)
    asked.get("/versions")
    redis_server.stop()
    assert asked.get("/versions").status_code == 503
