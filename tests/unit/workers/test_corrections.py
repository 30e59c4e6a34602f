from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from workers.contract import Rle
from workers.corrections import (
    HELD_OUT,
    AnnotationRecord,
    Correction,
    Corrections,
    Mark,
    TaskCorrections,
    is_held_out,
)


def make_task(task_id: int = 7, project_id: int = 1, updated_at: str = "then", **fields: object) -> TaskCorrections:
    mask = Rle.from_mask(np.eye(6, 8, dtype=bool))
    correction = Correction(image=0, expression="the ship", label="target", mask=mask, origin="drawn")
    record = AnnotationRecord(annotation_id=task_id, updated_at=datetime(2026, 11, 1, tzinfo=UTC), skipped={"why": 1})
    return TaskCorrections(**{
        "mark": Mark(project_id=project_id, task_id=task_id, updated_at=updated_at),
        "scene": f"/data/{task_id}.png",
        "image_uris": (f"/data/{task_id}.png",),
        "annotations": (record.model_copy(update={"corrections": (correction,)}),),
        **fields,
    })


@pytest.fixture
def corrections(tmp_path: Path) -> Corrections:
    return Corrections(tmp_path)


def test_what_is_kept_comes_back(corrections: Corrections):
    corrections.put(make_task())
    assert corrections.get(1, 7) == make_task()
    assert corrections.get(1, 8) is None
    assert corrections.get(2, 7) is None


def test_a_task_is_replaced_as_a_whole(corrections: Corrections, tmp_path: Path):
    corrections.put(make_task())
    corrections.put(make_task(updated_at="now", annotations=()))
    assert corrections.get(1, 7) == make_task(updated_at="now", annotations=())
    assert corrections.marks(1) == {7: "now"}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["7.json"]


def test_what_is_withdrawn_is_gone(corrections: Corrections):
    corrections.put(make_task())
    assert corrections.withdraw(1, 7)
    assert not corrections.withdraw(1, 7)
    assert list(corrections.of(1)) == []


def test_projects_are_apart_and_tasks_in_order(corrections: Corrections):
    for task_id, project_id in [(10, 1), (9, 1), (11, 2)]:
        corrections.put(make_task(task_id, project_id))
    assert corrections.projects() == [1, 2]
    assert [task.mark.task_id for task in corrections.of(1)] == [9, 10]
    assert corrections.marks(2) == {11: "then"}


def test_a_broken_file_has_no_mark_and_is_passed_over(corrections: Corrections, tmp_path: Path):
    corrections.put(make_task(7))
    corrections.put(make_task(8))
    (tmp_path / "corrections" / "1" / "7.json").write_bytes(b"\xff{")
    assert corrections.marks(1) == {7: "", 8: "then"}
    assert [task.mark.task_id for task in corrections.of(1)] == [8]


def test_whoever_is_killed_while_writing_leaves_what_was_there(corrections: Corrections, tmp_path: Path):
    corrections.put(make_task())
    code = (
        "import os, sys; from pathlib import Path; from workers import corrections as c\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "store = c.Corrections(Path(sys.argv[1])); task = store.get(1, 7)\n"
        "store.put(task.model_copy(update={'annotations': ()}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert done.returncode == -9
    assert corrections.get(1, 7) == make_task()
    assert list(corrections.marks(1)) == [7]


def test_one_scene_in_five_is_held_out_and_stays_so():
    held_out = [is_held_out(f"/data/upload/{n}.png") for n in range(5000)]
    assert abs(sum(held_out) - 5000 / HELD_OUT) < 100
    assert [n for n in range(20) if held_out[n]] == FIRST_HELD_OUT


FIRST_HELD_OUT = [8, 12]
"""Never to be changed: what a model was measured on it would then be taught."""
