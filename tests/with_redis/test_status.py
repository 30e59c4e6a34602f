from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from tests.factories import make_job
from tests.with_redis.conftest import WorkerProcess, wait_for
from workers.cli import main
from workers.failures import Failure
from workers.queue import JobQueue


def test_status_shows_what_waits_who_works_on_what_and_what_failed(
    queue: JobQueue, start_worker: Callable[[], WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    queue.submit([make_job(1, expressions=("sleep 60",)), make_job(2)])
    queue.record_failure(Failure.of(make_job(3), "predict", "annotator", "Label Studio has no [image]."))
    wait_for(start_worker().began)

    seen = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)
    assert (seen["waiting"], seen["running"], seen["to_deliver"], seen["failed"]) == (1, 1, 0, 1)
    assert seen["model_version"] == "obedient@1"
    [worker] = seen["workers"]
    assert worker["state"] == "busy"
    assert worker["job"] == "predict-" + make_job(1, expressions=("sleep 60",)).key
    assert seen["failures"][0]["reason"] == "Label Studio has no [image]."

    monkeypatch.setenv("COLUMNS", "300")
    table = CliRunner().invoke(main, ["status"]).output
    for shown in ("obedient@1", "busy", "Label Studio has no [image].", "the ship"):
        assert shown in table
