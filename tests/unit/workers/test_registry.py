from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_version
from workers import registry as registry_module
from workers.alias import move_alias, tell_champion
from workers.errors import NoSuchVersion, VersionPruned
from workers.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "data")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkpoint, as far as the registry looks at it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def three(registry: Registry, files: Path) -> Registry:
    """A registry with versions v1, v2 and v3 of project 1."""
    for name in ("v1", "v2", "v3"):
        registry.add(make_version(name), files)
    return registry


def test_a_version_is_read_as_it_was_added_with_its_files(registry: Registry, files: Path) -> None:
    version = make_version("tiny@1", project_id=3)
    registry.add(version, files)
    assert registry.get(3, "tiny@1") == version
    assert (registry.folder(3, "tiny@1") / "model.safetensors").read_bytes() == b"weights"
    assert registry.projects() == [3]


def test_a_version_that_is_there_is_never_replaced(registry: Registry, files: Path) -> None:
    registry.add(make_version("v1", corrections=7), files)
    (files / "model.safetensors").write_bytes(b"others")
    registry.add(make_version("v1", corrections=8), files)
    assert registry.get(1, "v1").corrections == 7
    assert (registry.folder(1, "v1") / "model.safetensors").read_bytes() == b"weights"


def test_versions_are_listed_oldest_first_without_those_half_written_or_damaged(
    registry: Registry, files: Path, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    for days, name in ((1, "v2"), (2, "v1"), (0, "v3"), (0, "broken")):
        registry.add(make_version(name, made_at=now - timedelta(days=days)), files)
    (registry.folder(1, "broken") / "version.json").write_text("{")
    killed = registry.folder(1, "v1").with_name(".v4.0123abcd")  # What a writer leaves that is killed.
    killed.mkdir()
    (killed / "version.json").write_text(make_version("v4").model_dump_json())
    assert [version.version for version in registry.versions(1)] == ["v1", "v2", "v3"]
    for name in ("v4", ".v4.0123abcd"):
        with pytest.raises(NoSuchVersion):
            registry.folder(1, name)


@pytest.mark.parametrize("name", ["v9", "../v1", "../../2/versions/other", "v1/../v1", ".", "..", "", "/etc"])
def test_a_name_that_is_no_version_of_the_project_is_refused(three: Registry, files: Path, name: str) -> None:
    three.add(make_version("other", project_id=2), files)
    with pytest.raises(NoSuchVersion, match=r"Project 1 has no version .* models list"):
        three.folder(1, name)
    with pytest.raises(NoSuchVersion):
        three.move(1, name, "forced")
    assert three.history(1) == []


@pytest.mark.parametrize("name", ["../v1", "a/b", "", "v 1"])
def test_a_version_cannot_be_called_what_no_folder_should_be(name: str) -> None:
    with pytest.raises(ValueError, match="version"):
        make_version(name)


def test_the_base_serves_until_the_alias_moves_and_each_move_is_remembered(three: Registry) -> None:
    assert three.champion(1) is None
    assert three.last_move(1) is None
    three.move(1, "v1", "promoted")
    last = three.move(1, "v2", "forced")
    assert (last.number, last.version, last.former, last.why) == (2, "v2", "v1", "forced")
    assert three.last_move(1) == last
    assert [(move.former, move.version) for move in three.history(1)] == [(None, "v1"), ("v1", "v2")]
    assert three.champion(2) is None, "another project's alias stays where it is"


def test_of_many_who_move_at_once_each_comes_after_another(three: Registry) -> None:
    names = ["v1", "v2", "v3", None] * 10
    with ThreadPoolExecutor(8) as threads:
        moves = list(threads.map(lambda name: three.move(1, name, "forced"), names))
    history = three.history(1)
    assert [move.number for move in history] == list(range(1, len(names) + 1))
    assert sorted(moves, key=lambda move: move.number) == history
    for earlier, later in pairwise(history):
        assert later.former == earlier.version


def test_what_a_mover_that_was_killed_left_behind_is_no_move(three: Registry, tmp_path: Path) -> None:
    three.move(1, "v1", "promoted")
    history = tmp_path / "data" / "models" / "1" / "history"
    (history / ".000002.json.0123abcd").write_text('{"number": 2, "ver')
    assert three.champion(1) == "v1"
    assert three.move(1, "v2", "promoted").number == 2
    assert json.loads((history / "000002.json").read_text())["version"] == "v2"


MOVES = [
    ([("v1", "promoted")], [None]),
    ([("v1", "promoted"), ("v2", "promoted"), ("v3", "forced")], ["v2", "v1", None]),
    ([("v1", "promoted"), ("v2", "promoted"), ("v1", "forced")], ["v2", "v1", None]),
    ([("v1", "promoted"), ("v2", "promoted"), ("v1", "rolled back"), ("v3", "promoted")], ["v1", None]),
    ([("v1", "promoted"), ("v2", "promoted"), ("v3", "promoted"), ("v1", "rolled back")], [None]),
    ([("v1", "promoted"), (None, "forced")], ["v1", None]),
]


@pytest.mark.parametrize(("moves", "back"), MOVES)
def test_each_rollback_leads_further_back_and_the_last_one_to_the_base(
    three: Registry, moves: list[tuple[str | None, Any]], back: list[str | None]
) -> None:
    for version, why in moves:
        three.move(1, version, why)
    for former in back:
        assert three.before(1) == former
        three.move(1, former, "rolled back")
    with pytest.raises(NoSuchVersion, match="nothing to roll back"):
        three.before(1)


class Board:
    """Redis, as far as the alias goes; something may happen just before it is written."""

    def __init__(self) -> None:
        self.champion: str | None = "unknown"
        self.meanwhile: list[Any] = []

    def keep_champion(self, _project_id: int, version: str | None) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        self.champion = version


def test_a_move_that_was_cut_short_before_redis_knew_is_finished_by_the_same_once_more(three: Registry) -> None:
    board: Any = Board()
    three.move(1, "v1", "promoted")  # And then it was killed.
    assert move_alias(board, three, 1, "v1", "promoted") is None
    assert board.champion == "v1"
    assert len(three.history(1)) == 1


def test_whoever_tells_last_tells_the_truth(three: Registry) -> None:
    board: Any = Board()
    board.meanwhile = [lambda: move_alias(Board(), three, 1, "v2", "forced")]  # type: ignore[arg-type]
    move = move_alias(board, three, 1, "v1", "promoted")
    assert move is not None
    assert move.version == "v1"
    assert (board.champion, three.champion(1)) == ("v2", "v2")
    assert tell_champion(board, three, 1) == "v2"


def test_an_alias_never_moves_to_what_is_not_there(three: Registry) -> None:
    board: Any = Board()
    with pytest.raises(NoSuchVersion):
        move_alias(board, three, 1, "v9", "forced")
    assert (board.champion, three.history(1)) == ("unknown", [])


def test_two_who_add_the_same_version_at_once_leave_one_whole(
    registry: Registry, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = registry_module.shutil.copytree

    def slowly(source: Path, target: Path) -> None:
        copy(source, target)
        monkeypatch.setattr(registry_module.shutil, "copytree", copy)
        registry.add(make_version("v1", corrections=1), files)  # Another, meanwhile.

    monkeypatch.setattr(registry_module.shutil, "copytree", slowly)
    registry.add(make_version("v1", corrections=2), files)
    assert registry.get(1, "v1").corrections == 1
    assert [path.name for path in registry.folder(1, "v1").parent.iterdir()] == ["v1"]


def test_pruning_leaves_what_served_and_the_newest_whole_and_of_the_rest_the_record(three: Registry) -> None:
    three.move(1, "v1", "promoted")
    three.move(1, None, "rolled back")
    assert three.prune(1, keep=5) == []
    assert three.prune(1, keep=1) == ["v2"]
    assert [three.has_weights(1, name) for name in ("v1", "v2", "v3")] == [True, False, True]
    assert [version.version for version in three.versions(1)] == ["v1", "v2", "v3"]
    assert three.prune(1, keep=1) == []


def test_a_pruned_version_is_not_promoted_and_the_operator_is_told_what_to_do(three: Registry) -> None:
    three.prune(1, keep=1)
    with pytest.raises(VersionPruned, match=r"weights of v1 were removed .* retrain --project 1"):
        three.move(1, "v1", "forced")
    assert three.history(1) == []
