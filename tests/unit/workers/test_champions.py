from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rsrefseg.errors import BadCheckpoint
from tests.factories import make_version
from workers import champions as champions_module
from workers.champions import Champions
from workers.errors import RedisAway
from workers.notices import Trouble
from workers.registry import Registry


class FakeModel:
    """A model that counts what is asked of it."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.asked: list[list[str]] = []

    def encode_all(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return list(images)

    def segment(self, _image: Any, expressions: list[str], _pointings: object = None) -> list[Any]:
        self.asked.append(expressions)
        return []


class FakeBase(FakeModel):
    """One over which others hang: a folder's heads are what the file says, or break as it says."""

    def __init__(self) -> None:
        super().__init__("tiny@0")
        self.loads: list[str] = []

    def with_heads(self, folder: Path) -> FakeModel:
        self.loads.append(folder.name)
        said = (folder / "heads").read_text()
        if said == "corrupt":
            raise BadCheckpoint(f"the weights in {folder} are damaged")
        if said == "strange":
            raise KeyError("a secret")
        return FakeModel(said)


class Board:
    """Redis, as far as champions go."""

    def __init__(self) -> None:
        self.champions: dict[int, str] = {}
        self.troubles: dict[int, Trouble | None] = {}
        self.away = False

    def champion(self, project_id: int) -> str | None:
        if self.away:
            raise RedisAway("Redis does not answer")
        return self.champions.get(project_id)

    def keep_trouble(self, project_id: int, host: str, trouble: Trouble | None) -> None:
        assert host
        self.troubles[project_id] = trouble


class Fixture:
    def __init__(self, data: Path) -> None:
        self.board = Board()
        self.registry = Registry(data)
        self.base = FakeBase()
        self.files = data / "files"
        self.files.mkdir()
        self.champions = self.started_anew()

    def started_anew(self, kept: int = 16) -> Champions:
        return Champions(self.board, self.registry, self.base, kept)  # type: ignore[arg-type]

    def add(self, version: str, project_id: int = 1, *, holds: str = "") -> None:
        (self.files / "heads").write_text(holds or version)
        self.registry.add(make_version(version, project_id=project_id), self.files)

    def promote(self, version: str | None, project_id: int = 1) -> None:
        self.registry.move(project_id, version, "promoted")
        if version is None:
            self.board.champions.pop(project_id)
        else:
            self.board.champions[project_id] = version

    def mend(self, version: str) -> None:
        (self.registry.folder(1, version) / "heads").write_text(version)

    def serving(self, project_id: int = 1) -> str:
        return self.champions.of(project_id).version


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(champions_module.time, "monotonic", lambda: now[0])
    return now


def test_who_has_no_champion_is_served_by_the_base_itself(fixture: Fixture) -> None:
    assert fixture.champions.of(1) is fixture.base


def test_each_project_is_served_by_its_own_champion_which_is_loaded_once_and_warm(fixture: Fixture) -> None:
    fixture.add("v1")
    fixture.add("v2", project_id=2)
    fixture.promote("v1")
    fixture.promote("v2", project_id=2)
    model = fixture.champions.of(1)
    assert isinstance(model, FakeModel)
    assert model.asked == [["anything"]]
    assert [fixture.serving(project) for project in (1, 2, 3, 1)] == ["v1", "v2", "tiny@0", "v1"]
    assert fixture.champions.of(1) is model
    assert fixture.base.loads == ["v1", "v2"]


def test_a_promotion_and_a_rollback_are_seen_the_next_time_and_a_model_in_use_stays(fixture: Fixture) -> None:
    fixture.add("v1")
    fixture.add("v2")
    fixture.promote("v1")
    in_use = fixture.champions.of(1)
    fixture.promote("v2")
    assert fixture.serving() == "v2"
    assert in_use.version == "v1"
    fixture.promote("v1")
    assert fixture.champions.of(1) is in_use, "it was still in memory"
    fixture.promote(None)
    assert fixture.serving() == "tiny@0"


@pytest.mark.parametrize(
    ("holds", "reason"), [("corrupt", "are damaged"), ("v9", "not what they were"), ("strange", "KeyError")]
)
def test_what_cannot_be_loaded_leaves_the_former_champion_serving_and_is_told(
    fixture: Fixture, clock: list[float], caplog: pytest.LogCaptureFixture, holds: str, reason: str
) -> None:
    fixture.add("v1")
    fixture.add("v2", holds=holds)
    fixture.promote("v1")
    assert fixture.serving() == "v1"
    fixture.promote("v2")
    with caplog.at_level(logging.ERROR):
        assert [fixture.serving() for _ in range(3)] == ["v1"] * 3
    assert fixture.base.loads == ["v1", "v2"], "it is not tried again at each chunk"
    assert len(caplog.records) == 1
    trouble = fixture.board.troubles[1]
    assert trouble is not None
    assert trouble.version == "v2"
    assert reason in trouble.reason
    assert "secret" not in trouble.reason

    fixture.mend("v2")
    assert fixture.serving() == "v1"
    clock[0] += champions_module.PAUSE_S
    assert fixture.serving() == "v2"
    assert fixture.board.troubles[1] is None


def test_a_worker_that_starts_with_a_corrupt_champion_serves_what_was_before_it(fixture: Fixture) -> None:
    fixture.add("v1")
    fixture.add("v2", holds="corrupt")
    fixture.promote("v1")
    fixture.promote("v2")
    assert fixture.started_anew().of(1).version == "v1"


def test_where_nothing_of_the_project_can_be_loaded_the_base_serves(fixture: Fixture) -> None:
    fixture.board.champions[1] = "v1"  # Of a machine whose files are not here.
    assert fixture.champions.of(1) is fixture.base
    trouble = fixture.board.troubles[1]
    assert trouble is not None
    assert "no version 'v1'" in trouble.reason


def test_while_redis_is_away_what_served_last_goes_on(fixture: Fixture) -> None:
    fixture.add("v1")
    fixture.promote("v1")
    assert fixture.serving() == "v1"
    fixture.board.away = True
    assert [fixture.serving(project) for project in (1, 2)] == ["v1", "tiny@0"]


def test_only_so_many_versions_stay_in_memory_those_asked_for_last(fixture: Fixture) -> None:
    fixture.champions = fixture.started_anew(kept=2)
    for project in (1, 2, 3):
        fixture.add(f"v{project}", project_id=project)
        fixture.promote(f"v{project}", project_id=project)
    for project in (1, 2, 1, 3, 1, 2):
        assert fixture.serving(project) == f"v{project}"
    assert fixture.base.loads == ["v1", "v2", "v3", "v2"]


def test_a_model_that_nothing_hangs_over_serves_everybody(fixture: Fixture) -> None:
    fixture.add("v1")
    fixture.promote("v1")
    alone = SimpleNamespace(version="alone@0")
    champions = Champions(fixture.board, fixture.registry, alone, 16)  # type: ignore[arg-type]
    assert champions.of(1) is alone
    assert fixture.board.troubles == {}
