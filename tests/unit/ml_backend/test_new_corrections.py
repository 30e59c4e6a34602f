"""What no training has looked at is counted, whoever restarts and however trainings end."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from ml_backend.new_corrections import NewCorrections
from tests.factories import make_task_corrections
from workers.contract import Training
from workers.corrections import Corrections
from workers.snapshots import Manifest, PartCounts, Snapshots

UPDATED = datetime(2026, 11, 24, 9, 30, 0, 123456, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Corrections:
    return Corrections(tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> NewCorrections:
    return NewCorrections(tmp_path)


def put(store: Corrections, task: int, corrections: int = 2, updated_at: datetime = UPDATED) -> None:
    store.put(make_task_corrections(task, corrections, updated_at))


def snap(data: Path, number: int, annotations: dict[int, str]) -> None:
    part = PartCounts(corrections=0, images=0, scenes=0, labels={}, sha256="0")
    manifest = Manifest(
        name=f"{number:04d}-00000000",
        project_id=1,
        parent=None,
        made_at=UPDATED,
        train=part,
        held_out=part,
        annotations=annotations,
    )
    folder = Snapshots(data).folder(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{manifest.name}.json").write_text(manifest.model_dump_json())


def training(
    stage: Literal["failed", "refused", "learning"], began_at: datetime, ended_at: datetime | None = None
) -> Training:
    return Training(project_id=1, stage=stage, why="count", began_at=began_at, at=ended_at or began_at)


def test_before_the_first_training_everything_is_new(store: Corrections, new: NewCorrections) -> None:
    assert new.of(1) == (0, None, None)
    put(store, 7)
    put(store, 8, corrections=3)
    count, first_at, last_at = new.of(1)
    assert count == 5
    assert first_at is not None
    assert last_at is not None
    assert timedelta() <= datetime.now(UTC) - last_at <= datetime.now(UTC) - first_at < timedelta(seconds=10)


def test_what_the_newest_snapshot_looked_at_is_not_new_until_it_changes(
    store: Corrections, new: NewCorrections, tmp_path: Path
) -> None:
    put(store, 7)
    put(store, 8)
    snap(tmp_path, 9, {107: UPDATED.isoformat()})
    assert new.of(1).corrections == 2
    snap(tmp_path, 10, {107: UPDATED.isoformat(), 108: UPDATED.isoformat()})
    assert new.of(1).corrections == 0
    put(store, 7, corrections=1, updated_at=UPDATED + timedelta(microseconds=1))
    assert new.of(1).corrections == 1
    assert NewCorrections(tmp_path).of(1).corrections == 1, "a restart counts the same"
    store.withdraw(1, 7)
    assert new.of(1).corrections == 0
    for path in Snapshots(tmp_path).folder(1).glob("*.json"):
        path.unlink()
    assert new.of(1).corrections == 2, "without snapshots everything is new"


def test_a_training_that_failed_without_a_snapshot_makes_nothing_new_again(
    store: Corrections, new: NewCorrections
) -> None:
    put(store, 7)
    began_at = datetime.now(UTC)
    assert new.of(1, training("learning", began_at)).corrections == 2
    assert new.of(1, training("failed", began_at)).corrections == 0
    time.sleep(0.01)
    put(store, 8)
    assert new.of(1, training("failed", began_at)).corrections == 2


def test_a_file_that_cannot_be_read_counts_nothing(store: Corrections, new: NewCorrections, tmp_path: Path) -> None:
    put(store, 7)
    (tmp_path / "corrections/1/8.json").write_text("no JSON\n{")
    (tmp_path / "corrections/1/.9.json.0a0a").write_text("a part of one")
    assert new.of(1).corrections == 2


def test_little_is_remembered_of_what_a_snapshot_knows(store: Corrections, new: NewCorrections, tmp_path: Path) -> None:
    put(store, 1)
    first = tmp_path / "corrections/1/1.json"
    for number in range(2, 5_001):
        os.link(first, first.with_name(f"{number}.json"))
    snap(tmp_path, 1, {101: UPDATED.isoformat()})
    tracemalloc.start()
    try:
        assert new.of(1).corrections == 0
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 5_000 < 250, "bytes for each task"


def test_ten_thousand_tasks_are_counted_again_at_once(store: Corrections, new: NewCorrections, tmp_path: Path) -> None:
    put(store, 1)
    first = tmp_path / "corrections/1/1.json"
    for number in range(2, 10_001):
        os.link(first, first.with_name(f"{number}.json"))
    assert new.of(1).corrections == 20_000
    began = time.process_time()
    assert new.of(1).corrections == 20_000
    assert time.process_time() - began < 1
