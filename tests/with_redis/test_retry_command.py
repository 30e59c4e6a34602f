"""`rsrefseg-backend retry`: what failed is asked again, and who called is told what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from ml_backend.cli import main
from tests.factories import make_job
from tests.stand_in_label_studio import StandInLabelStudio
from workers.failures import Failure
from workers.queue import JobQueue


@pytest.fixture
def retry(queue: JobQueue, label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, before a project of which tasks 7, 8 and 9 failed, and 9 is gone since."""
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    monkeypatch.setenv("RSREFSEG_DATA", str(queue.settings.data))
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.key)
    queue.announce("tiny@1")
    for task in (7, 8, 9):
        queue.record_failure(Failure.of(make_job(task), "predict", "ours", "it broke"))
    return lambda *options: CliRunner().invoke(main, ["retry", "--project", "1", *options])


def test_all_that_failed_is_on_its_way_again_and_what_is_gone_leaves_the_list(
    queue: JobQueue, retry: Callable[..., Result]
) -> None:
    done = retry()
    assert done.exit_code == 0, done.output
    assert done.output == "2 of 3 tasks are on their way again. 1 are no longer in Label Studio.\n"
    assert (queue.counts()["waiting"], queue.failures()) == (2, [])
    assert retry().output == "There is nothing to try again.\n"


def test_one_task_alone_can_be_asked_again(queue: JobQueue, retry: Callable[..., Result]) -> None:
    assert json.loads(retry("--task", "8", "--json").output) == {"tasks": 1, "again": 1, "unaskable": 0, "gone": 0}
    assert queue.counts()["waiting"] == 1
    assert sorted(failure.task_id for failure in queue.failures()) == [7, 9]


def test_a_key_that_is_refused_is_said_in_a_sentence(
    queue: JobQueue, retry: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    done = retry()
    assert done.exit_code != 0
    assert "LABEL_STUDIO_API_KEY" in done.output
    assert "Traceback" not in done.output
    assert len(queue.failures()) == 3
