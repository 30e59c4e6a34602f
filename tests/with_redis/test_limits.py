"""Who asks too often is told to wait, whichever web process they ask, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend import access
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


def test_a_right_password_is_taken_from_where_it_came_before_whoever_else_guesses_there(queue: JobQueue) -> None:
    locked = {"basic_user": "me", "basic_password": SecretStr("pw"), "guess_limit": 3}
    first, second = client(queue, **locked), client(queue, **locked)
    assert first.get("/versions", auth=("me", "pw")).status_code == 200
    guesses = [first.get("/versions", auth=("me", f"guess {number}")).status_code for number in range(5)]
    assert guesses == [401] * 3 + [429] * 2
    for one in (first, second):  # The other web process knows it from Redis.
        assert one.get("/versions", auth=("me", "pw")).status_code == 200
    assert second.get("/versions", auth=("me", "guess")).status_code == 429


def test_where_nobody_ever_knew_the_password_a_guess_that_is_right_is_not_told_apart(queue: JobQueue) -> None:
    locked = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=3)
    guesses = [locked.get("/versions", auth=("me", f"guess {number}")) for number in range(4)]
    right = locked.get("/versions", auth=("me", "pw"))
    assert (right.status_code, right.get_json()) == (429, guesses[-1].get_json())


def test_wrong_secrets_of_webhooks_keep_no_right_one_out(queue: JobQueue) -> None:
    locked = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=3)
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}}
    secret = access.install(queue, 7)
    said = [
        locked.post("/webhook", json=event, headers={"Authorization": f"Bearer {shown}"}).status_code
        for shown in [*"abcdef", secret]
    ]
    assert said == [401] * 6 + [200]


def test_behind_a_proxy_each_caller_has_limits_of_their_own_and_cannot_choose_whose(queue: JobQueue) -> None:
    locked = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=3, proxies=1)

    def ask(forwarded: str, password: str) -> int:
        return locked.get("/versions", auth=("me", password), headers={"X-Forwarded-For": forwarded}).status_code

    guesses = [ask(f"198.51.100.{number}, 192.0.2.7", "guess") for number in range(5)]
    assert guesses == [401] * 3 + [429] * 2, "only what the proxy itself appended counts"
    assert ask("192.0.2.8", "pw") == 200
    direct = client(queue, basic_user="me", basic_password=SecretStr("pw"), guess_limit=3)
    chosen = [
        direct.get("/versions", auth=("me", "guess"), headers={"X-Forwarded-For": f"192.0.2.{number}"}).status_code
        for number in range(5)
    ]
    assert chosen == [401] * 3 + [429] * 2, "without a proxy the header is anybody's"


def test_no_limit_is_kept_where_none_is_wanted(queue: JobQueue) -> None:
    free = client(queue, rate_limit=0, guess_limit=0)
    assert {free.get("/versions").status_code for _ in range(50)} == {200}


@pytest.mark.filterwarnings("ignore")
def test_without_redis_the_answer_is_still_that_redis_is_away(queue: JobQueue, redis_server: EmbeddedRedis) -> None:
    asked = client(queue)
    asked.get("/versions")
    redis_server.stop()
    assert asked.get("/versions").status_code == 503
