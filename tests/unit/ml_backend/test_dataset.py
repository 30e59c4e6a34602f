from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from ml_backend.cli import main
from ml_backend.dataset import count, tables
from workers.contract import Rle
from workers.corrections import AnnotationRecord, Correction, Corrections, Mark, TaskCorrections, is_held_out
from workers.snapshots import Manifest, PartCounts

MASK = Rle.from_mask(np.eye(6, 8, dtype=bool))


def correction(origin: str = "drawn", label: str = "ship", **fields: Any) -> Correction:
    return Correction(**{
        "image": 0,
        "expression": "a ship",
        "label": label,
        "mask": None if origin == "rejected" else MASK,
        "origin": origin,
        **fields,
    })


def record(number: int, day: int, *corrections: Correction, **fields: Any) -> AnnotationRecord:
    at = datetime(2026, 11, day, 12, tzinfo=UTC)
    return AnnotationRecord(annotation_id=number, updated_at=at, corrections=corrections, **fields)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Corrections(tmp_path)
    tasks = {
        1: [record(1, 1, correction("accepted", iou=1.0), annotator=3, model_version="tiny@0", prediction_id=1)],
        2: [record(2, 3, correction("changed", "car", iou=0.5), correction(), annotator=3, model_version="tiny@0")],
        3: [record(3, 3, correction("rejected", iou=0.0), annotator=4, skipped={"a [region] has no label": 2})],
        4: [record(4, 4, annotator=4), record(5, 2, correction(), annotator=5)],
    }
    for task_id, records in tasks.items():
        mark = Mark(project_id=1, task_id=task_id, updated_at="then")
        scene = ["/data/upload/1.png", "/data/upload/8.png"][task_id % 2]
        store.put(TaskCorrections(mark=mark, scene=scene, image_uris=(scene,), annotations=tuple(records)))
    return tmp_path


def test_corrections_are_counted_by_everything_that_matters(data: Path):
    counts = count(Corrections(data), 1)
    assert (counts.tasks, counts.annotations, counts.scenes) == (4, 5, 2)
    total = counts.total
    assert (total.corrections, total.accepted, total.changed, total.drawn, total.rejected) == (5, 1, 1, 2, 1)
    assert (total.empty, total.shown, total.agreement) == (1, 3, pytest.approx(0.5))
    assert {label: tally.corrections for label, tally in counts.labels.items()} == {"ship": 4, "car": 1}
    assert {who: tally.corrections for who, tally in counts.annotators.items()} == {"3": 3, "4": 1, "5": 1}
    assert {version: tally.corrections for version, tally in counts.model_versions.items()} == {"tiny@0": 3, "": 2}
    assert counts.skipped == {"a [region] has no label": 2}


def test_growth_is_what_there_was_at_the_end_of_each_day(data: Path):
    assert count(Corrections(data), 1).days == {"2026-11-01": 1, "2026-11-02": 2, "2026-11-03": 5}


def test_held_out_are_those_whose_scene_is(data: Path):
    assert (is_held_out("/data/upload/8.png"), is_held_out("/data/upload/1.png")) == (True, False)
    assert count(Corrections(data), 1).total.held_out == 2


def test_the_table_says_it_all(data: Path):
    written = io.StringIO()
    Console(file=written, width=140).print(tables(count(Corrections(data), 1)))
    said = written.getvalue()
    assert "5 corrections from 5 annotations of 4 tasks, 2 scenes" in said
    for word in ("ship", "car", "tiny@0", "0.500", "2026-11-03", "a [region] has no label", "held out"):
        assert word in said


def test_the_command_prints_json_or_tables(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RSREFSEG_DATA", str(data))
    printed = CliRunner().invoke(main, ["dataset", "--project", "1", "--json"])
    assert json.loads(printed.stdout)["total"]["corrections"] == 5
    assert "5 corrections" in CliRunner().invoke(main, ["dataset", "--project", "1"]).stdout


def test_where_there_is_nothing_the_command_says_what_to_look_at(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RSREFSEG_DATA", str(data))
    printed = CliRunner().invoke(main, ["dataset", "--project", "2"])
    assert printed.exit_code == 0
    assert "rsrefseg-backend courier" in printed.stdout


def test_snapshots_are_listed_and_the_newest_is_exported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RSREFSEG_DATA", str(data))
    printed = CliRunner().invoke(main, ["dataset", "--project", "1", "--export", str(tmp_path / "out")])
    assert printed.exit_code == 2
    assert "rsrefseg-backend retrain --project 1" in printed.stderr
    folder = data / "datasets/1"
    (folder / "images").mkdir(parents=True)
    nothing = PartCounts(corrections=0, images=0, scenes=0, labels={}, sha256="0" * 64)
    for number in (9, 10):
        name = f"{number:04d}-3fa94c12"
        manifest = Manifest(
            name=name,
            project_id=1,
            parent=None,
            made_at=datetime(2026, 11, number, tzinfo=UTC),
            train=nothing,
            held_out=nothing,
            annotations={},
            left_out={"the image does not come just now": 2},
        )
        (folder / f"{name}.json").write_text(manifest.model_dump_json())
        for part in ("train", "held-out"):
            (folder / f"{name}-{part}.jsonl").write_text("")
    printed = CliRunner().invoke(main, ["dataset", "--project", "1", "--export", str(tmp_path / "out")])
    assert "Snapshot 0010-3fa94c12" in printed.stdout
    assert (tmp_path / "out/test.jsonl").exists()
    assert "0010-3fa94c12" in CliRunner().invoke(main, ["dataset", "--project", "1"]).stdout
    listed = json.loads(CliRunner().invoke(main, ["dataset", "--project", "1", "--json"]).stdout)["snapshots"]
    assert [one["name"] for one in listed] == ["0009-3fa94c12", "0010-3fa94c12"]
    assert listed[0]["left_out"] == {"the image does not come just now": 2}


def test_where_two_annotated_one_task_it_is_said_how_far_they_agree(tmp_path: Path):
    store = Corrections(tmp_path)
    half = np.eye(6, 8, dtype=bool)
    half[3:] = False
    tasks = {
        1: [record(1, 1, correction(), annotator=7), record(2, 1, correction(mask=Rle.from_mask(half)), annotator=3)],
        2: [
            record(3, 1, correction("rejected"), correction(label="car"), annotator=3),
            record(4, 1, correction("rejected"), annotator=7),
            record(5, 1, correction(mask=Rle.from_mask(half)), annotator=7),
        ],
        3: [record(6, 1, correction(), annotator=3), record(7, 2, correction(), annotator=3)],
        4: [record(8, 1, correction(), annotator=3), record(9, 2, correction())],
    }
    for task_id, records in tasks.items():
        mark = Mark(project_id=1, task_id=task_id, updated_at="then")
        store.put(TaskCorrections(mark=mark, scene="a", image_uris=("a",), annotations=tuple(records)))
    counts = count(store, 1)
    assert set(counts.between_annotators) == {"3, 7"}
    pair = counts.between_annotators["3, 7"]
    assert (pair.tasks, pair.masks, pair.agreement) == (3, 3, pytest.approx((0.5 + 1 + 0) / 3))
    console = Console(file=io.StringIO(), width=200)
    console.print(tables(counts))
    assert "mean IoU between them" in console.file.getvalue()  # type: ignore[attr-defined]
