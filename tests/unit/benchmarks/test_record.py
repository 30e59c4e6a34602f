"""What a benchmark prints beside what was kept last."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

MACHINE = {"cpu": "one", "cores": 2}


@pytest.fixture(scope="module")
def record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", Path("benchmarks/record.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
