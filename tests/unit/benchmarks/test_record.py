"""What a benchmark prints beside what was kept last."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

MACHINE = {"cpu": "one", "cores": 2}


@pytest.fixture(scope="module")
def record() -> Iterator[ModuleType]:
    sys.path.insert(0, "benchmarks")  # They import each other as scripts do.
    spec = importlib.util.spec_from_file_location("record", Path("benchmarks/record.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove("benchmarks")


def kept(folder: Path, date: str, cpu: str, **figures: float) -> None:
    (folder / "rle").mkdir(exist_ok=True)
    whole = {"figures": figures, "machine": {"cpu": cpu, "cores": 2}, "commit": "abc1234"}
    (folder / "rle" / f"{date}-{cpu}.json").write_text(json.dumps(whole))


def test_the_newest_of_the_same_machine_is_found(record: ModuleType, tmp_path: Path) -> None:
    kept(tmp_path, "2026-01-01", "one", speed=1.0)
    kept(tmp_path, "2026-01-02", "one", speed=2.0)
    kept(tmp_path, "2026-01-03", "other", speed=9.0)
    found = record.last_recorded("rle", MACHINE, tmp_path)
    assert (found["figures"], found["date"]) == ({"speed": 2.0}, "2026-01-02")
    assert record.last_recorded("dispatch", MACHINE, tmp_path) is None


def test_figures_stand_beside_those_of_then_with_their_ratio(record: ModuleType, tmp_path: Path) -> None:
    kept(tmp_path, "2026-01-02", "one", speed=2.0, none=0.0)
    table = record.compared({"speed": 3.0, "none": 1.0, "new": 5}, record.last_recorded("rle", MACHINE, tmp_path))
    console = Console(width=100, record=True)
    console.print(table)
    text = console.export_text()
    assert "2026-01-02, abc1234" in text
    assert [line for line in text.splitlines() if "speed" in line and "1.50" in line]
    assert [line for line in text.splitlines() if "new" in line and "-" in line]


@pytest.mark.parametrize(
    ("now", "then", "goal", "said"),
    [
        (3.0, 2.0, ">= 1", "better"),
        (3.0, 2.0, "lower", "worse"),
        (1.0, 2.0, "higher", "worse"),
        (1.0, 2.0, "<= 5", "better"),
        (2.05, 2.0, "<= 5", "same"),
        (0, 0, "<= 0", "same"),
        (1, 0, "<= 0", "worse"),
        (3.0, 2.0, "", ""),
        (3.0, None, "lower", ""),
        ([1], [2], "lower", ""),
    ],
)
def test_a_figure_became_better_or_worse_by_its_goal(
    record: ModuleType, now: object, then: object, goal: str, said: str
) -> None:
    assert record.trend(now, then, goal) == said


def test_a_goal_that_is_missed_is_said_and_returned(
    record: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert record.keep("tiny", {"new_image_s": 0.4, "megabytes": 25}, {}, quick=True)
    assert "Missed" not in capsys.readouterr().out
    assert not record.keep("tiny", {"new_image_s": 0.6, "megabytes": 25}, {}, quick=True)
    lines = capsys.readouterr().out.splitlines()
    assert "Missed: new_image_s is 0.6, wanted <= 0.5." in lines
    assert json.loads(lines[-1]) == {"new_image_s": 0.6, "megabytes": 25}
    assert record.keep("tiny", {"new_image_s": 0.6}, {}, goals={"new_image_s": "lower"}, quick=True)


def test_every_benchmark_has_goals_and_every_goal_is_one(record: ModuleType) -> None:
    words = {path.stem.removeprefix("bench_") for path in Path("benchmarks").glob("bench_*.py")}
    assert set(record.GOALS) == words
    for goals in record.GOALS.values():
        for goal in goals.values():
            assert goal in {"higher", "lower"} or record.is_met(0.0, goal) is not None
