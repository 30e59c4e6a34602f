import json
from pathlib import Path

import pytest

from rsrefseg import anchor
from rsrefseg.anchor import draw_anchor, read_anchor


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(anchor, "SCENES", {"train": 2, "test": 3})


def test_the_anchor_is_drawn_once_and_both_sides_differ(few, tmp_path: Path):
    drawn = []
    draw_anchor(tmp_path / "anchor", lambda: drawn.append(1))
    assert len(drawn) == 5
    draw_anchor(tmp_path / "anchor", lambda: drawn.append(1))
    assert len(drawn) == 5
    learnt, scored = read_anchor(tmp_path / "anchor", "train"), read_anchor(tmp_path / "anchor", "test")
    assert len({one.image_path for one in learnt}) == 2
    assert len({one.image_path for one in scored}) == 3
    assert not {one.image_path for one in learnt} & {one.image_path for one in scored}
    for one in scored:
        assert one.gt_mask(one.image().shape[:2]).shape == (512, 512)
    assert any(one.gt_mask().any() for one in scored)


def test_one_that_was_cut_short_is_drawn_again_as_a_whole(few, tmp_path: Path):
    class Cut(Exception):
        pass

    def cut():
        raise Cut

    with pytest.raises(Cut):
        draw_anchor(tmp_path / "anchor", cut)
    assert list(tmp_path.iterdir()) == []
    draw_anchor(tmp_path / "anchor")
    (tmp_path / "anchor/anchor.json").write_text("{}")  # of another version of ours
    draw_anchor(tmp_path / "anchor")
    assert json.loads((tmp_path / "anchor/anchor.json").read_text())["scenes"] == {"train": 2, "test": 3}
    assert not list(tmp_path.glob(".anchor*"))
    assert not (tmp_path / "anchor/former").exists()


def test_of_a_large_anchor_always_the_same_images_are_taken(few, tmp_path: Path):
    draw_anchor(tmp_path)
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    monkeyed = [json.dumps(json.loads(line) | {"file_name": f"{n}.png"}) for n, line in enumerate(lines * 3)]
    (tmp_path / "test.jsonl").write_text("\n".join(monkeyed))
    taken = {one.image_path.name for one in read_anchor(tmp_path, "test")}
    assert len(taken) == 3
    (tmp_path / "test.jsonl").write_text("\n".join(reversed(monkeyed)))
    assert {one.image_path.name for one in read_anchor(tmp_path, "test")} == taken


def test_of_two_who_draw_it_at_once_the_first_is_left_in_its_place(few, tmp_path: Path):
    first = []

    def another():
        if not first:
            first.append(tmp_path)
            draw_anchor(tmp_path / "anchor")
            first.append((tmp_path / "anchor/anchor.json").stat().st_ino)

    draw_anchor(tmp_path / "anchor", another)
    assert (tmp_path / "anchor/anchor.json").stat().st_ino == first[1]
    assert [path.name for path in tmp_path.iterdir()] == ["anchor"]
