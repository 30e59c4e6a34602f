from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rsrefseg import anchor
from tests.conftest import ImageHost
from tests.unit.workers.test_snapshots import OpenFetcher, Project, correction, task
from workers import material
from workers.corrections import is_held_out
from workers.material import Material
from workers.settings import Settings
from workers.snapshots import Manifest


@pytest.fixture
def project(tmp_path: Path, image_host: ImageHost, open_fetcher: OpenFetcher) -> Project:
    return Project(tmp_path, image_host, open_fetcher)


@pytest.fixture
def gather(project: Project, tmp_path: Path) -> Callable[..., Material]:
    folder = tmp_path / "theirs"
    (folder / "images").mkdir(parents=True)

    def made(manifest: Manifest, former: str | None = None) -> Material:
        return Material.gather(Settings(data=tmp_path, anchor=folder), project.snapshots, manifest, former)

    return made


def test_what_the_parent_learnt_is_older_unless_it_was_corrected_again(project: Project, gather) -> None:
    project.put(task(1), task(2), task(3))
    first = project.collect()
    project.put(task(2, correction(expression="the pier"), day=2), task(4))
    second = project.collect()
    from_base = gather(second)
    assert len(from_base.new) == 4
    assert not from_base.older
    further = gather(second, first.name)
    assert sorted(sample.sample_id for sample in further.new) == ["2-102-0", "4-104-0"]
    assert sorted(sample.sample_id for sample in further.older) == ["1-101-0", "3-103-0"]
    assert not gather(second, second.name).new


def test_a_former_snapshot_that_is_gone_makes_everything_new(project: Project, gather) -> None:
    project.put(task(1), task(2))
    manifest = project.collect()
    assert len(gather(manifest, "0001-00000000").new) == 2


def test_what_was_accepted_as_it_was_counts_half(project: Project, gather) -> None:
    project.put(task(1, correction(origin="accepted", iou=1.0), correction(expression="the pier", origin="changed")))
    assert gather(project.collect()).light == {"1-101-0"}


def test_of_many_held_out_scenes_always_the_same_are_asked_about_as_a_whole(
    project: Project, gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "HELD_OUT_LIMIT", 4)
    held_out = [n for n in range(1, 90) if is_held_out(f"/data/upload/{n}.png")]
    project.put(*(task(n, correction(), correction(expression="the pier")) for n in held_out[:6]))
    first = gather(project.collect())
    assert len(first.held_out) == 4
    assert len({first.scenes[sample.sample_id] for sample in first.held_out}) == 2
    project.corrections.withdraw(1, next(n for n in held_out[:6] if f"{n}-" not in str(first.held_out)))
    again = gather(project.collect())
    assert [sample.sample_id for sample in again.held_out] == [sample.sample_id for sample in first.held_out]


def test_without_another_the_anchor_is_drawn_below_the_data(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor, "SCENES", {"train": 1, "test": 1})
    project.put(task(1))
    found = Material.gather(Settings(data=tmp_path), project.snapshots, project.collect(), None)
    assert found.anchor == tmp_path / "anchor"
    assert json.loads((found.anchor / "test.jsonl").read_text().splitlines()[0])["sent"]


PROGRAM = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np
from workers.collector import Collector
from workers.contract import Rle
from workers.corrections import AnnotationRecord, Correction, Mark, TaskCorrections, is_held_out
from workers.material import Material
from workers.settings import Settings
from workers.snapshots import Snapshots

MASK = Rle.from_mask(np.random.default_rng(0).random((192, 192)) < 0.3)
AT = datetime(2026, 11, 1, tzinfo=UTC)

class Store:
    def __init__(self, count):
        self.count = count

    def of(self, project_id):
        for number in range(self.count):
            uri = f"/data/upload/{number}.png"
            asked = Correction(image=0, expression="the ship", label="ship", mask=MASK, origin="drawn")
            record = AnnotationRecord(annotation_id=number, updated_at=AT, corrections=(asked,))
            mark = Mark(project_id=1, task_id=number, updated_at="then")
            yield TaskCorrections(mark=mark, scene=uri, image_uris=(uri,), annotations=(record,))

class Fetcher:
    def fetch(self, uri, task):
        image = np.zeros((192, 192, 3), np.uint8)
        image[0, 0] = task % 200, is_held_out(uri), 0  # A few hundred pictures, of which none is in both parts.
        return image

data = Path(sys.argv[1])
settings, snapshots = Settings(data=data, anchor=data / "none"), Snapshots(data)
for count in (1000, 10000):
    manifest = Collector(Store(count), snapshots, Fetcher()).collect(1)
    material = Material.gather(settings, snapshots, manifest, manifest.parent)
    megabytes = snapshots.path(1, manifest.name, "train").stat().st_size // 2**20
    sizes = len(material.new), len(material.older), manifest.train.corrections
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, megabytes, *sizes)
"""


@pytest.mark.timeout(600)  # Torch is imported, which takes minutes where the machine has other things to do.
def test_ten_thousand_corrections_become_material_in_hardly_more_memory_than_a_thousand(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert many[1] > 100, "megabytes of masks"
    assert many[0] - few[0] < 48
    assert many[2] + many[3] == many[4] > 4000
    assert many[3] == few[4]
