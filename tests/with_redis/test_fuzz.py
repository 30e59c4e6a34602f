"""Whatever is sent to the web process, it is never our own fault: `make bench ONLY=fuzz` asks 10,000 times and more."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.fuzzing import from_description, guarded, junk
from workers.queue import JobQueue


@pytest.fixture
def app(queue: JobQueue) -> Flask:
    settings = queue.settings.model_copy(update={"open_wait_s": 0.0, "interactive_wait_s": 0.01})
    return guarded(settings, queue.redis)


def test_what_the_description_admits_and_what_it_does_not_are_never_answered_with_500(app: Flask) -> None:
    seen = from_description(app, 300)
    assert sum(seen.values()) >= 150
    assert {key: count for key, count in seen.items() if key[1] >= 500} == {}
    for label in ("POST /webhook", "POST /predict", "POST /setup"):
        assert {status for (one, status) in seen if one == label} >= {200, 422, 401}, label
    asked = sum(count for (label, _), count in seen.items() if label == "POST /predict")
    assert seen["POST /predict", 200] > asked / 20


def test_junk_is_never_answered_with_500(app: Flask) -> None:
    seen = junk(app, 400)
    assert {key: count for key, count in seen.items() if key[1] >= 500} == {}
