from __future__ import annotations

import json
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
