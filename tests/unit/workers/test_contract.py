from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tests.factories import make_job
from workers.contract import PredictJob


def test_a_key_is_the_same_wherever_the_request_is_read_and_its_own_once_it_was_changed() -> None:
    job = make_job()
    assert PredictJob.model_validate_json(job.model_dump_json()).key == job.key
    changed = job.model_copy(update={"task_id": 8})
    assert changed.key == make_job(task_id=8).key != job.key


def test_when_and_by_which_way_a_request_came_is_no_part_of_its_key() -> None:
    job = make_job(7, image_uri="/data/a.png", model_version="tiny@0")
    assert job.key == "d9dda363c8b4e807882e4f3bdc1fb0bb", "requests in flight would be asked twice after an upgrade"
    noted = job.taken_in(datetime.now(UTC), "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    assert noted.key == PredictJob.model_validate_json(noted.model_dump_json()).key == job.key
    assert noted.model_copy(update={"task_id": 8}).key != job.key


def test_a_request_written_before_it_carried_a_trace_is_still_read() -> None:
    before = make_job().model_dump_json(exclude={"asked_at", "traceparent"})
    assert PredictJob.model_validate_json(before) == make_job()


def test_a_request_whose_key_was_asked_for_is_still_the_same_request() -> None:
    job, other = make_job(), make_job()
    text = job.model_dump_json()
    assert job.key in {other.key}
    assert (job.model_dump_json(), job) == (text, make_job())
    with pytest.raises(ValidationError):
        PredictJob.model_validate(job.model_dump() | {"key": job.key})
