"""What becomes of a challenger that is made and judged; tests/with_redis/test_retrain.py has the whole of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from workers import retrain
from workers.contract import Training, TrainJob
from workers.desk import DESK, Desk
from workers.leased import Stop
from workers.registry import Comparison, Registry, Verdict, Version
from workers.retrain import Ended, _Retraining
from workers.runs import Run, RunFolder
from workers.settings import Settings

NOW = datetime(2026, 11, 24, tzinfo=UTC)
COMPARED = Comparison(samples=12, scenes=12, before=30.123, after=51.456, low=17, high=24)


class Notices:
    """What a queue is told."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.said: list[Training] = []
        self.champions: dict[int, str | None] = {}

    def keep_training(self, training: Training) -> None:
        self.said.append(training)

    def keep_champion(self, project_id: int, version: str | None) -> None:
        self.champions[project_id] = version


class Case:
    """A project whose base was taught, with its registry and what was said."""

    def __init__(self, data: Path) -> None:
        self.registry = Registry(data)
        self.notices = Notices(Settings(data=data))
        self.takes = 0
        (data / "heads").mkdir()
        self.heads = data / "heads"

    def version(self, name: str, *, passed: bool, **fields: Any) -> Version:
        made = Version(**{
            "version": name,
            "project_id": 1,
            "base": "tiny@0",
            "parent": "tiny@0",
            "dataset": "0001-3fa94c12",
            "corrections": 50,
            "recipe": {},
            "code": "",
            "made_at": NOW + timedelta(minutes=9),
            "seconds": 540,
            "verdict": Verdict(passed=passed, reason="So it is.", held_out=COMPARED),
            **fields,
        })
        self.registry.add(made, self.heads)
        return made

    def settle(self, made: Version, *, promote: bool = False, champion: str | None = None) -> Training:
        asked = TrainJob(project_id=1, why="asked", promote=promote)
        desk = Desk(self.notices, Stop())  # type: ignore[arg-type]
        run = Run(asked_at="", began_at=NOW, base="tiny@0", champion=champion, snapshot="0001-3fa94c12")
        self.takes += 1
        folder = RunFolder(self.notices.settings.data, 1, self.takes)
        assert folder.take("") is None
        folder.keep(run)
        retraining = _Retraining(desk, asked, "", folder)
        try:
            retraining._settle(run, made)
        except Ended as end:
            retraining._end("refused", str(end))
        ended = folder.run()
        assert ended is not None
        assert ended.ended == self.notices.said[-1]
        folder.clear()
        return self.notices.said[-1]

    @property
    def moves(self) -> list[tuple[str | None, str]]:
        return [(move.version, move.why) for move in self.registry.history(1)]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_one_that_passed_serves_and_everybody_is_told(case: Case) -> None:
    ended = case.settle(case.version("tiny@1", passed=True))
    assert (ended.stage, ended.reason, ended.version) == ("promoted", "So it is.", "tiny@1")
    assert (ended.before, ended.after) == (30.12, 51.46)
    assert case.moves == [("tiny@1", "promoted")]
    assert case.notices.champions == {1: "tiny@1"}


def test_settling_twice_moves_once(case: Case) -> None:
    made = case.version("tiny@1", passed=True)
    case.settle(made)
    assert case.settle(made).stage == "promoted"
    assert case.moves == [("tiny@1", "promoted")]


def test_one_that_did_not_pass_does_not_serve_unless_a_person_says_so(case: Case) -> None:
    made = case.version("tiny@1", passed=False)
    ended = case.settle(made)
    assert (ended.stage, ended.reason) == ("refused", "So it is.")
    assert case.moves == []
    ended = case.settle(made, promote=True)
    assert (ended.stage, ended.reason) == ("promoted", "By hand. So it is.")
    assert case.moves == [("tiny@1", "forced")]


def test_where_the_same_was_taught_before_it_says_so(case: Case) -> None:
    made = case.version("tiny@1", passed=False, made_at=NOW - timedelta(days=1))
    assert case.settle(made).reason == "These corrections were taught before, as tiny@1. So it is."


def test_what_was_taken_back_is_not_promoted_again_by_itself(case: Case) -> None:
    made = case.version("tiny@1", passed=True)
    case.registry.move(1, "tiny@1", "promoted")
    case.registry.move(1, None, "rolled back")
    ended = case.settle(made)
    assert ended.stage == "refused"
    assert "taken back" in ended.reason
    assert case.registry.champion(1) is None
    assert case.settle(made, promote=True).stage == "promoted"


def test_a_person_who_moved_the_alias_meanwhile_has_the_last_word(case: Case) -> None:
    made = case.version("tiny@2", passed=True)
    case.version("tiny@1", passed=True)
    case.registry.move(1, "tiny@1", "forced")
    ended = case.settle(made, champion=None)
    assert ended.stage == "refused"
    assert "somebody moved the alias to tiny@1" in ended.reason
    assert "promote tiny@2 by hand" in ended.reason
    assert case.settle(made, champion="tiny@1").stage == "promoted"


def test_a_rollback_between_the_look_at_the_champion_and_the_move_is_not_overridden(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.version("tiny@1", passed=True)
    case.registry.move(1, "tiny@1", "promoted")
    move = retrain.move_alias

    def late(*what: Any) -> Any:
        monkeypatch.setattr(retrain, "move_alias", move)
        case.registry.move(1, None, "rolled back")
        return move(*what)

    monkeypatch.setattr(retrain, "move_alias", late)
    ended = case.settle(case.version("tiny@2", passed=True), champion="tiny@1")
    assert ended.stage == "refused"
    assert "somebody moved the alias to the base" in ended.reason
    assert case.moves == [("tiny@1", "promoted"), (None, "rolled back")]


def test_outside_of_a_trainer_there_is_no_desk() -> None:
    with pytest.raises(RuntimeError, match="--queue train"):
        DESK.take()


def test_a_trainer_is_busy_while_it_learns_and_not_while_it_collects(case: Case) -> None:
    def busy() -> float:
        return REGISTRY.get_sample_value("rsrefseg_device_busy_seconds_total") or 0.0

    desk = Desk(case.notices, Stop())  # type: ignore[arg-type]
    folder = RunFolder(case.notices.settings.data, 1, 1)
    folder.take("")
    training = _Retraining(desk, TrainJob(project_id=1, why="asked"), "", folder)
    before = busy()
    time.sleep(0.02)
    training._go_on()
    assert busy() == before, "it collects"
    training._say(stage="learning")
    time.sleep(0.02)
    training._go_on()
    assert 0.02 <= busy() - before < 5
