from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.factories import make_job
from workers.contract import PredictJob


def test_a_key_is_the_same_wherever_the_request_is_read_and_its_own_once_it_was_changed() -> None:
    job = make_job()
    assert PredictJob.model_validate_json(job.model_dump_json()).key == job.key
    changed = job.model_copy(update={"task_id": 8})
    assert changed.key == make_job(task_id=8).key != job.key


def test_a_request_whose_key_was_asked_for_is_still_the_same_request() -> None:
    job, other = make_job(), make_job()
    text = job.model_dump_json()
    assert job.key in {other.key}
    assert (job.model_dump_json(), job) == (text, make_job())
    with pytest.raises(ValidationError):
        PredictJob.model_validate(job.model_dump() | {"key": job.key})
