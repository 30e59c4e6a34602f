"""The courier's own command is killed in the middle of a rollout, twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import make_version
from tests.fleet import COURIER, Fleet
from tests.stand_in_label_studio import KEY, stand_in_label_studio
from tests.with_redis.conftest import wait_for
from tests.with_redis.test_rollout import prediction, versions
from workers.registry import Registry

BASE, CHAMPION = "tiny@0", "simulated@0.01s"
"""A simulated worker draws by the version that its speed is called by, whatever is asked for."""

WORKER = (sys.executable, "-m", "workers.cli", "run", "--simulate", "0.01")
TASKS = range(1, 31)
ANNOTATED = 20
PATIENCE_S = 180


@pytest.mark.timeout(600)  # Four processes are started, one after the other.
def test_a_courier_that_is_killed_in_the_middle_of_a_rollout_leaves_it_to_the_next(tmp_path: Path) -> None:
    with (
        stand_in_label_studio() as label_studio,
        Fleet.gather(tmp_path, label_studio.url, KEY, RSREFSEG_REPLACED_S="0") as fleet,
    ):
        label_studio.tasks = set(TASKS)
        label_studio.page_limit = 7
        label_studio.predictions = {number: prediction(number, number, BASE) for number in TASKS}
        label_studio.project = {"model_version": BASE}
        label_studio.annotate(ANNOTATED, {"id": 1, "parent_prediction": ANNOTATED})
        fleet.queue.announce(BASE)
        fleet.start(*WORKER)
        courier = fleet.start(*COURIER)
        fleet.wait_for(fleet.queue.gpu, 1)
        registry = Registry(tmp_path)
        (tmp_path / "checkpoint").mkdir()
        for version in (BASE, CHAMPION):
            registry.add(make_version(version), tmp_path / "checkpoint")
        registry.move(1, CHAMPION, "promoted")

        def having(version: str) -> int:
            return len({one["task"] for one in [*label_studio.predictions.values()] if one["model_version"] == version})

        def drawn() -> int:
            return having(CHAMPION)

        def removed() -> int:
            return len(TASKS) - having(BASE)

        def kill_at(count: int, look: Callable[[], int]) -> None:
            wait_for(lambda: look() >= count, PATIENCE_S)
            courier.stop()
            # In place of waiting for what it held to run out.
            for key in ("rsrefseg:rolling-out:1", *fleet.queue.redis.keys("rsrefseg:delivering:*")):
                fleet.queue.redis.delete(key)
            courier.start()

        kill_at(15, drawn)
        kill_at(8, removed)
        wait_for(lambda: removed() == len(TASKS) - 1, PATIENCE_S)
        expected = {number: {CHAMPION} for number in TASKS} | {ANNOTATED: {BASE}}
        assert versions(label_studio) == expected
        assert label_studio.project["model_version"] == CHAMPION
        assert fleet.queue.failures() == []
