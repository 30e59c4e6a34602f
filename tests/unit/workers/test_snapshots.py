from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsrefseg.datasets import Sample, read_benchmark
from tests.conftest import TOKEN, ImageHost
from tests.factories import make_png
from workers.collector import Collector
from workers.contract import Rle
from workers.corrections import AnnotationRecord, Correction, Corrections, Mark, TaskCorrections, is_held_out
from workers.errors import NoSnapshot
from workers.images import ImageFetcher
from workers.snapshots import Snapshots

SIZE = (6, 8)
MASK = np.zeros(SIZE, bool)
MASK[1:3, 2:5] = True
OpenFetcher = Callable[..., ImageFetcher]


def correction(**fields: Any) -> Correction:
    return Correction(**{
        "image": 0,
        "expression": "the ship",
        "label": "ship",
        "mask": Rle.from_mask(MASK),
        "origin": "drawn",
        **fields,
    })


def task(number: int, *corrections: Correction, day: int = 1, scene: str = "", uri: str = "") -> TaskCorrections:
    at = datetime(2026, 11, day, tzinfo=UTC)
    uri = uri or f"/data/upload/{number}.png"
    return TaskCorrections(
        mark=Mark(project_id=1, task_id=number, updated_at=at.isoformat()),
        scene=scene or uri,
        image_uris=(uri,),
        annotations=(
            AnnotationRecord(
                annotation_id=100 + number,
                updated_at=at,
                annotator=3,
                model_version="tiny@0",
                corrections=corrections or (correction(),),
            ),
        ),
    )


class Project:
    """Corrections on disk, and a host that has their images."""

    def __init__(self, data: Path, host: ImageHost, open_fetcher: OpenFetcher) -> None:
        self.corrections, self.snapshots = Corrections(data), Snapshots(data)
        self.host = host
        self.root = self.snapshots.folder(1)
        self._fetcher = open_fetcher(label_studio_url=host.url, label_studio_api_key=TOKEN)

    def put(self, *tasks: TaskCorrections) -> None:
        for one in tasks:
            self.corrections.put(one)
            self.host.pages.setdefault(one.image_uris[0], (200, make_png((6, 8 + one.mark.task_id))))

    def collect(self, on_task: Callable[[int], None] = lambda _: None):
        return Collector(self.corrections, self.snapshots, self._fetcher, on_task).collect(1)

    def samples(self, split: str) -> list[Sample]:
        rows = list(read_benchmark("coco", self.root, split))
        assert all(isinstance(row, Sample) for row in rows), rows
        return rows  # type: ignore[return-value]


@pytest.fixture
def project(tmp_path: Path, image_host: ImageHost, open_fetcher: OpenFetcher) -> Project:
    return Project(tmp_path, image_host, open_fetcher)


def test_a_snapshot_is_read_as_a_referring_data_set_split_by_scene(project: Project) -> None:
    assert (is_held_out("/data/upload/8.png"), is_held_out("/data/upload/1.png")) == (True, False)
    size = (6, 9)
    mask = np.zeros(size, bool)
    mask[2:4, 1:5] = True
    project.put(task(1, correction(mask=Rle.from_mask(mask)), correction(expression="the pier", mask=None)), task(8))
    manifest = project.collect()
    learnt, held_out = (project.samples(f"{manifest.name}-{part}") for part in ("train", "held-out"))
    assert [sample.expression for sample in learnt] == ["the ship", "the pier"]
    assert (learnt[0].gt_mask(size) == mask).all()
    assert not learnt[1].gt_mask(size).any(), "what was rejected teaches the empty mask"
    assert learnt[0].image().shape == (6, 9, 3)
    assert [(sample.expression, sample.category) for sample in held_out] == [("the ship", "ship")]
    assert (manifest.train.corrections, manifest.held_out.corrections, manifest.train.images) == (2, 1, 1)
    assert manifest.annotations == {101: "2026-11-01T00:00:00+00:00", 108: "2026-11-01T00:00:00+00:00"}


def test_each_line_remembers_the_way_it_came(project: Project) -> None:
    project.put(task(1, correction(origin="changed", iou=0.5)))
    [line] = project.snapshots.lines(1, project.collect().name, "train")
    assert (line.task, line.annotation, line.annotator, line.origin, line.iou) == (1, 101, 3, "changed", 0.5)
    assert (line.model_version, line.scene) == ("tiny@0", "/data/upload/1.png")


def test_masks_of_another_size_are_lined_up_with_their_image(project: Project) -> None:
    project.host.pages["/data/upload/1.png"] = (200, make_png((12, 16)))
    project.put(task(1))
    [sample] = project.samples(f"{project.collect().name}-train")
    assert (sample.gt_mask((12, 16)) == MASK.repeat(2, 0).repeat(2, 1)).all()


def test_an_image_that_lies_on_its_side_is_kept_upright(project: Project) -> None:
    turned = Image.new("RGB", (9, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    project.host.pages["/data/upload/1.png"] = (200, file.getvalue())
    project.put(task(1, correction(mask=Rle.from_mask(np.ones((9, 6), bool)))))
    [sample] = project.samples(f"{project.collect().name}-train")
    assert sample.image().shape == (9, 6, 3)
    assert sample.gt_mask((9, 6)).all()


def test_the_same_corrections_make_the_same_snapshot_and_no_image_is_fetched_twice(project: Project) -> None:
    project.put(*map(task, range(1, 6)))
    first = project.collect()
    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*")}
    asked = len(project.host.asked)
    assert project.collect() == first
    assert {path: path.stat().st_mtime_ns for path in project.root.rglob("*") if not path.is_dir()} == {
        path: at for path, at in before.items() if not path.is_dir()
    }
    assert len(project.host.asked) == asked == 5


def test_what_is_new_makes_a_new_snapshot_and_leaves_the_former_as_it_was(project: Project) -> None:
    project.put(task(1))
    first = project.collect()
    lines = project.snapshots.path(1, first.name, "train").read_bytes()
    project.put(task(1, correction(mask=None, origin="rejected"), day=2), task(2))
    second = project.collect()
    assert (first.name[:5], second.name[:5], second.parent) == ("0001-", "0002-", first.name)
    assert project.snapshots.path(1, first.name, "train").read_bytes() == lines
    assert [manifest.name for manifest in project.snapshots.all(1)] == [first.name, second.name]
    assert project.snapshots.newest(1) == second
    project.corrections.withdraw(1, 2)
    third = project.collect()
    assert third.train.corrections == 1
    assert len(list((project.root / "images").glob("*.png"))) == 2


def test_an_image_that_is_away_leaves_its_corrections_out_and_the_others_stay(project: Project) -> None:
    project.put(task(1), task(2), task(3), task(4))
    project.host.pages["/data/upload/2.png"] = (503, b"")
    project.host.pages["/data/upload/3.png"] = (404, b"")
    project.host.pages["/data/upload/4.png"] = (200, b"no image")
    manifest = project.collect()
    assert manifest.train.corrections == 1
    assert manifest.left_out == {"the image does not come just now": 1, "there is no such image for us": 2}
    assert any("/data/upload/2.png" in said for said in manifest.examples)
    assert set(manifest.annotations) == {101, 102, 103, 104}, "they were looked at"
    project.host.pages["/data/upload/2.png"] = (200, make_png())
    assert project.collect().train.corrections == 2


def test_two_annotators_of_a_task_are_both_kept(project: Project) -> None:
    one = task(1)
    other = one.annotations[0].model_copy(update={"annotation_id": 7, "annotator": 4})
    project.put(one.model_copy(update={"annotations": (*one.annotations, other)}))
    lines = list(project.snapshots.lines(1, project.collect().name, "train"))
    assert [(line.annotation, line.annotator) for line in lines] == [(7, 4), (101, 3)]
    assert len({line.ref_id for line in lines}) == 2


def test_a_collection_that_is_cut_short_leaves_nothing_that_counts_and_is_gone_on_with(project: Project) -> None:
    class Cut(Exception):
        pass

    def cut(number: int) -> None:
        if number == 3:
            raise Cut

    project.put(*map(task, range(1, 8)))
    with pytest.raises(Cut):
        project.collect(cut)
    assert project.snapshots.all(1) == []
    with (project.root / "sources.jsonl").open("a") as file:
        file.write('{"source": "half a li')
    asked = set(project.host.asked)
    project.host.asked.clear()
    assert project.collect().corrections == 7
    assert len(project.host.asked) < 7
    assert asked | set(project.host.asked) == {f"/data/upload/{number}.png" for number in range(1, 8)}
    assert not list(project.root.glob(".partial*"))


def test_what_has_no_manifest_does_not_exist(project: Project) -> None:
    project.put(task(1))
    name = project.collect().name
    (project.root / f"{name}.json").write_text("{")
    assert project.snapshots.all(1) == []
    assert project.snapshots.newest(1) is None
    with pytest.raises(NoSnapshot, match="retrain --project 1"):
        project.snapshots.export(1, project.root / "out")


def test_an_export_stands_by_itself(project: Project, tmp_path: Path) -> None:
    project.put(task(1), task(8), task(2))
    project.collect()
    project.corrections.withdraw(1, 2)
    newest = project.collect()
    assert project.snapshots.export(1, tmp_path / "out") == (newest, 1, 0, 1, ())
    [learnt] = list(read_benchmark("coco", tmp_path / "out", "train"))
    [tested] = list(read_benchmark("coco", tmp_path / "out", "test"))
    assert isinstance(learnt, Sample)
    assert isinstance(tested, Sample)
    assert learnt.image().shape == (6, 9, 3)
    assert len(list((tmp_path / "out/images").iterdir())) == 2
    assert json.loads((tmp_path / "out/train.jsonl").read_text())["task"] == 1


def test_some_of_the_scenes_that_may_be_taught_are_exported_to_choose_by_and_always_the_same(
    project: Project, tmp_path: Path
) -> None:
    def exported() -> dict[str, set[str]]:
        project.collect()
        found = project.snapshots.export(1, tmp_path / "out")
        held = {}
        for split in ("train", "val", "test"):
            lines = (tmp_path / f"out/{split}.jsonl").read_text().splitlines()
            held[split] = {json.loads(line)["scene"] for line in lines}
        assert set(found.val_scenes) == held["val"]
        return held

    project.put(*(task(n, correction(), correction(expression="the pier")) for n in range(1, 3)))
    few = exported()
    assert len(few["val"]) == len(few["train"]) == 1
    project.put(*map(task, range(3, 60)))
    many = exported()
    assert not many["val"] & many["train"]
    assert not (many["val"] | many["train"]) & many["test"]
    assert 2 <= len(many["val"]) < len(many["train"]) / 2
    project.put(*map(task, range(60, 70)))
    more = exported()
    assert many["val"] <= more["val"]
    assert many["train"] <= more["train"]
    assert all(is_held_out(scene) for scene in more["test"])


def test_a_picture_that_is_held_out_under_one_address_is_not_taught_under_another(project: Project) -> None:
    project.put(task(1), task(2), task(8))
    project.host.pages["/data/upload/2.png"] = project.host.pages["/data/upload/8.png"]
    manifest = project.collect()
    learnt, held_out = (project.samples(f"{manifest.name}-{part}") for part in ("train", "held-out"))
    assert [sample.sample_id for sample in learnt] == ["1-101-0"]
    assert [sample.sample_id for sample in held_out] == ["8-108-0"]
    assert manifest.left_out == {"a held-out scene has the same picture": 1}
    assert (manifest.train.corrections, manifest.train.images) == (1, 1)
    assert project.collect() == manifest
    assert not list(project.root.glob(".partial*"))


def test_a_manifest_remembers_a_few_examples_of_many_images_that_are_away(project: Project) -> None:
    project.put(*map(task, range(1, 30)))
    for path in project.host.pages:
        project.host.pages[path] = (404, b"")
    manifest = project.collect()
    assert sum(manifest.left_out.values()) == 29
    assert len(set(manifest.examples)) == len(manifest.examples) == 10


def test_one_snapshot_is_found_without_reading_the_others(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    project.put(task(1))
    first = project.collect()
    (project.root / "0002-00000000.json").write_text("{")
    project.put(task(2))
    third = project.collect()
    assert (third.name[:4], third.parent) == ("0003", "0002-00000000")
    assert project.snapshots.get(1, first.name) == first
    assert project.snapshots.newest(1) == third
    assert "snapshot not readable" not in caplog.messages
    assert project.snapshots.get(1, "0002-00000000") is None
    assert "snapshot not readable" in caplog.messages
    assert project.snapshots.get(1, "../1/0001") is None
