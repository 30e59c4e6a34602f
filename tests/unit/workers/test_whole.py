from __future__ import annotations

from pathlib import Path

import pytest

from workers import whole


def test_what_is_replaced_is_the_new_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    whole.replace(path, "first")
    whole.replace(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_appears_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert whole.appear(path, "first")
    assert not whole.appear(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_left_half_written_goes_after_a_day_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [tmp_path / ".17.json.3fa94c12", tmp_path / ".x.png.00000000"]
    stays = [tmp_path / name for name in ("17.json", ".gitignore", ".17.json.part", "versions")]
    for path in (*left, *stays):
        path.touch()
    folder = tmp_path / ".tiny@1.0123abcd"
    (folder / "deep").mkdir(parents=True)
    assert whole.sweep(tmp_path) == 0
    monkeypatch.setattr(whole, "LEFT_OVER_S", -1)
    assert whole.sweep(tmp_path) == 3
    assert sorted(tmp_path.iterdir()) == sorted(stays)
    assert whole.sweep(tmp_path / "nowhere") == 0
