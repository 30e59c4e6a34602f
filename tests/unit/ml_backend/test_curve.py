from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from ml_backend.cli import main
from ml_backend.curve import draw, learning_curve, tables
from ml_backend.errors import StartFailed
from ml_backend.selections import Selected, Selection, Selections
from tests.unit.ml_backend.test_dataset import correction, record
from workers.corrections import Corrections, Mark, TaskCorrections
from workers.registry import Comparison, Registry, Verdict, Version

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def version(name: str, corrections: int, before: float, after: float, *, passed: bool) -> Version:
    held_out = Comparison(
        samples=20, scenes=10, before=before, after=after, low=after - before - 3, high=after - before + 3
    )
    return Version(
        version=name,
        project_id=1,
        base="tiny@0",
        parent="tiny@0",
        dataset="d",
        corrections=corrections,
        recipe={},
        code="c",
        made_at=NOW + timedelta(hours=corrections),
        seconds=1.0,
        verdict=Verdict(passed=passed, reason="so", held_out=held_out),
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    registry, checkpoint = Registry(tmp_path), tmp_path / "checkpoint"
    checkpoint.mkdir()
    for one in (
        version("tiny@0-a", 30, 40.0, 52.0, passed=True),
        version("tiny@0-b", 45, 52.0, 50.0, passed=False),
        version("tiny@0-c", 60, 51.0, 61.0, passed=True),
    ):
        registry.add(one, checkpoint)
        if one.verdict.passed:
            registry.move(1, one.version, "promoted")
    corrections = Corrections(tmp_path)
    for task_id in range(1, 31):
        served, iou = ("tiny@0", 0.4) if task_id <= 20 else ("tiny@0-a", 0.7)
        shown = correction("changed", iou=iou + (0.1 if task_id % 2 else -0.1))
        mark = Mark(project_id=1, task_id=task_id, updated_at="then")
        records = (record(task_id, 1 if task_id <= 20 else 2, shown, model_version=served),)
        corrections.put(TaskCorrections(mark=mark, scene=str(task_id), image_uris=("a",), annotations=records))
    for task_ids, at in (
        (range(1, 16), NOW - timedelta(days=30)),
        (range(21, 31), datetime(2026, 11, 1, 18, tzinfo=UTC)),
    ):
        Selections(tmp_path).add(
            Selection(
                number=1,
                project_id=1,
                at=at,
                model_version="tiny@0",
                seed=0,
                random_share=0.5,
                way="doubts",
                pool=40,
                tasks=tuple(Selected(task_id=n, arm="random" if n % 2 else "chosen", score=None) for n in task_ids),
            )
        )
    return tmp_path


def test_the_curve_has_every_version_and_what_was_left_of_its_masks(data: Path):
    found = learning_curve(Registry(data), Corrections(data), Selections(data), 1)
    assert [(one.corrections, one.before, one.after, one.promoted) for one in found.taught] == [
        (30, 40.0, 52.0, True),
        (45, 52.0, 50.0, False),
        (60, 51.0, 61.0, True),
    ]
    assert [(row.model_version, row.arm, row.annotations) for row in found.shown] == [
        ("tiny@0", "random", 8),
        ("tiny@0", "chosen", 7),
        ("tiny@0", "unasked", 5),
        ("tiny@0-a", "random", 5),
        ("tiny@0-a", "chosen", 5),
    ]
    assert [row.iou for row in found.shown] == pytest.approx([50, 30, 38, 80, 60])
    mixed = found.shown[2]
    assert mixed.low is not None
    assert mixed.high is not None
    assert 30 <= mixed.low < 38 < mixed.high <= 50


def test_selections_are_numbered_and_each_counts_until_the_next(data: Path):
    selections = Selections(data)
    assert [one.number for one in selections.of(1)] == [1, 2]
    [_, last] = selections.of(1)
    now_chosen = (Selected(task_id=1, arm="chosen", score=0.5),)
    again = selections.add(last.model_copy(update={"tasks": now_chosen, "at": NOW}))
    assert again.number == 3
    arms = selections.arms(1)
    said = [arms.of(1, at) for at in (NOW - timedelta(days=31), NOW - timedelta(days=25), last.at, NOW)]
    assert said == [None, "random", None, "chosen"]
    assert selections.arms(2).of(1, NOW) is None


def test_the_table_says_it_all(data: Path):
    written = io.StringIO()
    Console(file=written, width=140).print(
        tables(learning_curve(Registry(data), Corrections(data), Selections(data), 1))
    )
    for word in ("tiny@0-c", "61.0", "refused", "promoted", "+7.0 ... +13.0", "drawn by lot", "in no selection"):
        assert word in written.getvalue()


def test_the_command_prints_json_and_draws(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RSREFSEG_DATA", str(data))
    done = CliRunner().invoke(main, ["curve", "--project", "1", "--json", "--out", str(data / "curve.png")])
    assert done.exit_code == 0, done.output
    assert [one["after"] for one in json.loads(done.stdout)["taught"]] == [52.0, 50.0, 61.0]
    with Image.open(data / "curve.png") as picture:
        assert len(set(picture.convert("RGB").resize((80, 70)).get_flattened_data())) > 5


def test_a_project_without_history_is_told_what_to_look_at(tmp_path: Path):
    empty = learning_curve(Registry(tmp_path), Corrections(tmp_path), Selections(tmp_path), 1)
    assert "dataset --project 1" in str(tables(empty))
    with pytest.raises(StartFailed, match="no history yet"):
        draw(empty, tmp_path / "curve.png")


def test_a_picture_that_cannot_be_written_is_a_sentence(data: Path):
    found = learning_curve(Registry(data), Corrections(data), Selections(data), 1)
    with pytest.raises(StartFailed, match=r"Choose a \.png"):
        draw(found, data / "curve.sheet")
    with pytest.raises(StartFailed, match="folder that is there"):
        draw(found, data / "nowhere" / "curve.png")
