"""Of the takes of a training one has its folder, whoever was stopped where and wakes when."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from workers import runs
from workers.contract import Training
from workers.errors import Superseded
from workers.runs import Run, RunFolder

NOW = datetime(2026, 11, 24, tzinfo=UTC)
RUN = Run(asked_at="monday", began_at=NOW, base="tiny@0", champion=None, snapshot="0001-3fa94c12")

Take = Callable[[int], RunFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Take:
    return lambda number: RunFolder(tmp_path, 1, number)


def began(folder: RunFolder) -> RunFolder:
    assert folder.take("monday") is None
    folder.keep(RUN)
    (folder.path / "teaching").mkdir()
    (folder.path / "teaching" / "weights").write_text("half learnt")
    return folder


def test_the_next_take_of_the_same_job_goes_on_with_what_is_there(folder: Take) -> None:
    began(folder(1))
    second = folder(2)
    assert second.take("monday") == RUN
    assert (second.path / "teaching" / "weights").read_text() == "half learnt"


def test_another_job_begins_anew(folder: Take) -> None:
    began(folder(1))
    second = folder(2)
    assert second.take("tuesday") is None
    assert [path.name for path in second.path.parent.iterdir()] == ["2"]
    assert [path.name for path in second.path.iterdir()] == ["taken"]


def test_whose_folder_was_taken_finds_it_gone_and_can_do_no_harm(folder: Take) -> None:
    first, second = began(folder(1)), folder(2)
    second.take("monday")
    assert not first.held()
    with pytest.raises(Superseded):
        first.keep(RUN)
    first.clear()
    assert second.held()
    assert second.run() == RUN


def test_a_folder_that_was_made_again_by_who_writes_late_is_not_held_and_is_swept(folder: Take) -> None:
    first = began(folder(1))
    folder(2).take("monday")
    (first.path / "teaching").mkdir(parents=True)
    assert not first.held()
    first.leave()
    assert not first.path.exists()
    (first.path / "teaching").mkdir(parents=True)
    third = folder(3)
    assert third.take("monday") == RUN
    third.leave()
    assert third.held()
    assert [path.name for path in third.path.parent.iterdir()] == ["3"]


def test_an_earlier_take_that_wakes_late_takes_nothing_from_a_later_one(folder: Take) -> None:
    second = began(folder(2))
    with pytest.raises(Superseded):
        folder(1).take("monday")
    assert second.held()


def test_the_last_word_stays_and_the_rest_goes(folder: Take) -> None:
    first = began(folder(1))
    word = Training(project_id=1, stage="promoted", why="asked", began_at=NOW, at=NOW, reason="It is better.")
    first.keep(RUN.model_copy(update={"ended": word}))
    first.clear(but_run=True)
    assert sorted(path.name for path in first.path.iterdir()) == ["run.json", "taken"]
    again = folder(2).take("monday")
    assert again is not None
    assert again.ended == word


def take_at_once(takes: list[RunFolder]) -> None:
    def take(one: RunFolder) -> None:
        with suppress(Superseded):
            one.take("monday")

    with ThreadPoolExecutor(len(takes)) as threads:
        list(threads.map(take, takes))


@pytest.mark.parametrize("before", [True, False], ids=["after another", "for the first time"])
def test_of_many_who_take_at_once_the_last_has_it(folder: Take, tmp_path: Path, before: bool) -> None:
    for _ in range(20):  # What one storm hides another one shows.
        if before:
            began(folder(1))
        takes = [folder(number) for number in range(2, 10)]
        take_at_once(takes)
        assert [one for one in takes if one.held()] == [takes[-1]]
        assert takes[-1].run() == (RUN if before else None)
        shutil.rmtree(tmp_path / "runs")


def test_one_who_was_stopped_while_it_took_holds_up_the_next_for_a_moment_only(
    folder: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_S", 0.1)
    began(folder(1))
    with folder(2)._alone():
        third = folder(3)
        assert third.take("monday") == RUN
        assert third.held()
