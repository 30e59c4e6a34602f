from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from ml_backend.web import create_app
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(open_wait_s=0.05, interactive_wait_s=0.2)


@pytest.fixture
def queue(settings: Settings) -> StubQueue:
    return StubQueue(settings)


@pytest.fixture
def client(settings: Settings, queue: StubQueue) -> FlaskClient:
    return create_app(settings, queue).test_client()
