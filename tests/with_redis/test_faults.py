"""The whole road under faults: one prediction for each request, none twice, none missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import make_job
from tests.faults import Spans, Storm
from tests.fleet import WEB, Fleet
from tests.stand_in_label_studio import StandInLabelStudio

HERE = Path(__file__).parent
HURRIED_COURIER = (sys.executable, str(HERE / "courier_process.py"))
HURRIED = Spans(redis_away=2, label_studio_away=2, late=0.8, silent=11, patience=60)
"""For processes in a hurry."""


@pytest.fixture
def fleet(tmp_path: Path, label_studio: StandInLabelStudio) -> Iterator[Fleet]:
    with Fleet.gather(tmp_path, label_studio.url, label_studio.key, RSREFSEG_OPEN_WAIT_S="0") as fleet:
        for _ in range(2):
            fleet.start(sys.executable, str(HERE / "worker_process.py"), str(tmp_path / "diary"))
            fleet.start(*HURRIED_COURIER)
        fleet.start(*WEB)
        fleet.wait_for(fleet.queue.gpu, 2)
        fleet.wait_for(fleet.queue.label_studio, 2)
        fleet.wait_for_web()
        yield fleet


def test_every_request_ends_as_one_prediction_whatever_dies(fleet: Fleet, label_studio: StandInLabelStudio) -> None:
    outcome = Storm(fleet, label_studio, seed=1, spans=HURRIED, words="sleep 0.05").rage(60)
    assert (outcome.predictions, outcome.doubled, outcome.missing) == (60, 0, 0)
    assert outcome.failures == ()


def test_an_image_that_kills_every_worker_is_one_failure_and_its_neighbours_are_done(
    fleet: Fleet, label_studio: StandInLabelStudio
) -> None:
    label_studio.tasks = range(1, 6)
    words = {3: "die"}
    fleet.queue.submit([make_job(task, expressions=(words.get(task, "the ship"),)) for task in label_studio.tasks])
    deadline = time.monotonic() + 200
    while not fleet.queue.failures() or len(label_studio.predictions) < 4:
        assert time.monotonic() < deadline
        fleet.tend(pause_s=0)
        time.sleep(0.1)
    [failure] = fleet.queue.failures()
    assert (failure.task_id, failure.move) == (3, "ours")
    assert "died over it" in failure.reason
    assert sorted(one["task"] for one in label_studio.predictions.values()) == [1, 2, 4, 5]
