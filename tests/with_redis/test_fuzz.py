"""Whatever is sent to the web process, it is never our own fault: `make bench ONLY=fuzz` asks 10,000 times and more."""

from __future__ import annotations

import pytest
from flask import Flask

from ml_backend.web import create_app
from tests.fuzzing import from_description, junk
from workers.queue import JobQueue


@pytest.fixture
def app(queue: JobQueue) -> Flask:
    settings = queue.settings.model_copy(update={"open_wait_s": 0.0, "interactive_wait_s": 0.01})
    return create_app(settings, JobQueue(queue.redis, settings))


def test_what_the_description_admits_and_what_it_does_not_are_never_answered_with_500(app: Flask) -> None:
    seen = from_description(app, 300)
    assert sum(seen.values()) >= 150
    assert {key: count for key, count in seen.items() if key[1] >= 500} == {}
    assert {status for (label, status) in seen if label == "POST /webhook"} >= {200, 422}


def test_junk_is_never_answered_with_500(app: Flask) -> None:
    seen = junk(app, 400)
    assert {key: count for key, count in seen.items() if key[1] >= 500} == {}
