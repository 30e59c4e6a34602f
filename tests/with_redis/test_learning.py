"""What the doctor says of trainings and rollouts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ml_backend.learning import rollout, training
from tests.factories import make_task_corrections
from workers.contract import Training, TrainJob
from workers.corrections import Corrections
from workers.leased import LeasedWorker, Pace, Stop
from workers.queue import JobQueue
from workers.rollouts import Rollout, Rollouts

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def start_trainer(queue: JobQueue) -> None:
    LeasedWorker(queue.train, Stop(), Pace(), prefix="trainer-").register_birth()


def said(queue: JobQueue) -> list[tuple[str, str]]:
    return [(one.state, f"{one.said} {one.move}".strip()) for one in training(queue, 1)]


def end(queue: JobQueue, **facts: Any) -> None:
    at = datetime.now(UTC)
    queue.keep_training(Training.model_validate({"project_id": 1, "why": "count", "began_at": at, "at": at, **facts}))


def test_where_nothing_was_corrected_nothing_is_said(queue: JobQueue) -> None:
    assert said(queue) == []


def test_corrections_want_a_trainer(queue: JobQueue) -> None:
    Corrections(queue.settings.data).put(make_task_corrections(corrections=2))
    start_one = "start `rsrefseg-worker run --queue train`."
    assert said(queue) == [("note", f"2 corrections are new, and no trainer runs: {start_one}")]
    queue.ask_training(TrainJob(project_id=1, why="asked"))
    assert said(queue) == [("wrong", f"One waits, and no trainer runs: {start_one}")]
    start_trainer(queue)
    assert said(queue) == [("right", "One is on its way (waiting).")]
    end(queue, stage="learning", step=3, steps=200)
    assert said(queue) == [("right", "One is on its way (learning, step 3 of 200).")]


def test_how_the_last_training_ended_is_said(queue: JobQueue) -> None:
    start_trainer(queue)
    end(queue, stage="failed", reason="There was no memory left.", at=NOW)
    asks = "`rsrefseg-backend retrain --project 1` asks for one."
    assert said(queue) == [("wrong", f"The last one failed at 2026-11-24 12:00 UTC: There was no memory left. {asks}")]
    end(queue, stage="refused", reason="The gain may be chance.")
    assert said(queue) == [("right", "0 corrections are new; the last training was refused: The gain may be chance.")]


@pytest.mark.parametrize(
    ("facts", "state"),
    [({}, "note"), ({"tries": 1}, "wrong"), ({"looked_through": True, "shown": True}, None)],
    ids=["under way", "nothing comes back", "over"],
)
def test_a_rollout_is_a_line_until_it_is_over(queue: JobQueue, facts: dict[str, Any], state: str | None) -> None:
    assert list(rollout(queue, 1)) == []
    Rollouts(queue.redis).keep(1, Rollout(number=1, version="tiny@1", began_at=NOW, **facts))
    found = list(rollout(queue, 1))
    assert [one.state for one in found] == ([state] if state else [])
    assert all("tiny@1" in one.said for one in found)
