"""When a project is retrained without anybody asking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ml_backend.new_corrections import New
from ml_backend.trigger import Why, decide
from workers.settings import Settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("new", "first_h", "last_s", "ended_h", "why"),
    [
        (0, None, None, None, None),
        (49, 1, 600, None, None),
        (50, 1, 600, None, "count"),
        (50, 1, 59, None, None),
        (99, 1, 0, None, None),
        (100, 1, 0, None, "count"),
        (50, 1, 60, 0.1, "count"),
        (10, 25, 600, None, "time"),
        (9, 25, 600, None, None),
        (10, 23, 600, None, None),
        (10, 25, 600, 23, None),
        (10, 25, 600, 24, "time"),
        (10, 1, 600, 48, None),
        (10, 25, 59, None, None),
    ],
)
def test_enough_corrections_or_old_ones_call_for_a_training_once_annotators_pause(
    new: int, first_h: float | None, last_s: float | None, ended_h: float | None, why: Why | None
) -> None:
    first_at = None if first_h is None else NOW - timedelta(hours=first_h)
    last_at = None if last_s is None else NOW - timedelta(seconds=last_s)
    ended_at = None if ended_h is None else NOW - timedelta(hours=ended_h)
    assert decide(New(new, first_at, last_at), ended_at, NOW, Settings()) == why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "count"),
        ({"retrain_after": 0}, "time"),
        ({"retrain_after": 0, "retrain_hours": 0}, None),
        ({"retrain_after": 0, "retrain_least": 1000}, None),
    ],
)
def test_each_reason_can_be_switched_off(changes: dict[str, float], why: Why | None) -> None:
    new = New(60, NOW - timedelta(hours=30), NOW - timedelta(hours=1))
    assert decide(new, None, NOW, Settings().model_copy(update=changes)) == why
