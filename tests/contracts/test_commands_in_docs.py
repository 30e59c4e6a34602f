"""Every command in the docs is one that its program takes, and is run: here, by another test, or not for a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsrefseg.samples import write_samples
from tests.documented import Shown, check, shown_commands, shown_in_prose
from tests.reference import PROGRAMS


@dataclass(frozen=True)
class Here:
    """It is run below, with more words that make it small, and leaves a file or prints a text."""

    more: tuple[str, ...] = ()
    leaves: str = ""
    prints: str = ""


@dataclass(frozen=True)
class By:
    """Another test runs it: its file, and what stands there."""

    file: str
    text: str


@dataclass(frozen=True)
class NotRun:
    """Nothing runs it as it stands here, for a reason."""

    reason: str


UNIT = "tests/unit/rsrefseg"
CONTINUOUS = NotRun("it is what runs the tests")
SERVERS = "tests/with_label_studio/conftest.py"

HOW: dict[str, Here | By | NotRun] = {
    r"make demo( .*)?$": By("tests/with_label_studio/test_demo.py", '"demo"'),
    r"make demo-loop": NotRun(
        "its training takes minutes; its parts are run by tests/unit/ml_backend/test_demo_loop.py"
    ),
    r"make (test|lint|setup|site)": CONTINUOUS,
    r"make bench": NotRun("it measures, for minutes to hours"),
    r"rsrefseg segment .*--checkpoint": By(f"{UNIT}/test_foundation.py", '"segment"'),
    r"rsrefseg segment scene.png": Here(leaves="masks/*.png"),
    r"rsrefseg scenes": Here(("--size", "128"), leaves="scenes/expressions.csv"),
    r"rsrefseg evaluate --dataset scenes": Here(("--count", "1"), prints="IoU"),
    r"rsrefseg evaluate": By(f"{UNIT}/test_evaluate.py", '"evaluate"'),
    r"rsrefseg probe --dataset scenes": Here(("--count", "1"), prints="IoU"),
    r"rsrefseg probe": By(f"{UNIT}/test_probes.py", "probe"),
    r"rsrefseg calibrate": By(f"{UNIT}/test_calibration.py", "calibrat"),
    r"rsrefseg train-tiny": By(f"{UNIT}/test_train_commands.py", '"train-tiny"'),
    r"rsrefseg train ": By(f"{UNIT}/test_train_commands.py", '"train"'),
    r"torchrun": By(f"{UNIT}/test_train.py", "torchrun"),
    r"rsrefseg weights fetch": By(f"{UNIT}/test_download.py", '"weights", "fetch"'),
    r"rsrefseg convert": By(f"{UNIT}/test_convert.py", '"convert"'),
    r"export ": NotRun("it sets a variable, whose name is checked"),
    r"rsrefseg-worker run --queue train": By("tests/with_label_studio/test_rollout.py", "train"),
    r"rsrefseg-worker run": By(SERVERS, '["rsrefseg-worker", "run"'),
    r"rsrefseg-worker status": Here(("--once",), prints="Requests"),
    r"rsrefseg-backend courier": By(SERVERS, '["rsrefseg-backend", "courier"]'),
    r"rsrefseg-backend web": By(SERVERS, '["rsrefseg-backend", "web"]'),
    r"rsrefseg-backend connect": By("tests/with_label_studio/test_doctor.py", "connect"),
    r"rsrefseg-backend doctor": By("tests/with_label_studio/test_doctor.py", "doctor"),
    r"rsrefseg-backend prelabel": By("tests/with_redis/test_prelabel.py", '"prelabel"'),
    r"rsrefseg-backend retrain": By("tests/with_redis/test_retrain_command.py", '"retrain"'),
    r"rsrefseg-backend models": By("tests/with_redis/test_versions.py", '"models"'),
    r"rsrefseg-backend dataset": By("tests/unit/ml_backend/test_dataset.py", '"dataset"'),
    r"rsrefseg-backend select": By("tests/with_label_studio/test_selection.py", "select"),
    r"rsrefseg-backend curve": By("tests/unit/ml_backend/test_curve.py", '"curve"'),
    r"cp \.env\.example|git pull": NotRun("it prepares what docker compose then reads"),
    r"(mkdir|cp|tar|rm) ": By("tests/with_redis/test_backup.py", "docs/backup.md, word for word"),
    r"\.venv/bin/pre-commit install": NotRun("it changes the clone; tests/contracts/test_habits.py reads the hooks"),
    r"docker|buildah|kubectl|helm": NotRun(
        "no engine and no cluster here; tests/contracts/test_deployment.py reads the files"
    ),
    r"pip install|label-studio-ml": NotRun("it downloads from the internet; what it starts is tested as a module"),
}
"""The first pattern that a command begins with says how it is run."""


def how(shown: Shown) -> Here | By | NotRun:
    line = " ".join(shown.words)
    for pattern, way in HOW.items():
        if re.match(pattern, line):
            return way
    raise AssertionError(f"{shown.page}:{shown.number}: nothing says how `{line}` is run; give it a line in HOW")


def test_every_command_is_one_that_its_program_takes_and_is_run_somehow():
    found = shown_commands()
    assert len(found) > 50
    for shown in found:
        try:
            check(shown.words)
        except Exception as exc:
            raise AssertionError(f"{shown.page}:{shown.number}: {shown.line}") from exc
        how(shown)


def test_commands_in_sentences_exist():
    found = shown_in_prose()
    assert len(found) > 20
    for shown in found:
        try:
            check(shown.words, whole=False)
        except Exception as exc:
            raise AssertionError(f"{shown.page}:{shown.number}: {shown.line}") from exc


@pytest.mark.parametrize("way", [way for way in HOW.values() if isinstance(way, By)], ids=lambda way: way.file)
def test_the_tests_that_are_named_run_something_of_the_kind(way: By):
    assert way.text in Path(way.file).read_text()


RUN = [shown for shown in shown_commands() if isinstance(how(shown), Here)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image, where a reader would stand."""
    folder = tmp_path_factory.mktemp("reader")
    write_samples(folder, 1, 128, 2_000_000_003)
    next(folder.glob("scene-*.png")).rename(folder / "scene.png")
    return folder


@pytest.mark.parametrize("line", sorted({" ".join(shown.words[:1]) + "|" + shown.line for shown in RUN}))
def test_what_is_cheap_is_run_as_it_stands(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    shown = Shown("", 0, line.partition("|")[2])
    way = how(shown)
    assert isinstance(way, Here)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RSREFSEG_DATA", str(folder / "data"))
    for name in ("REDIS_URL", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    program, *arguments = shown.words
    done = CliRunner().invoke(PROGRAMS[program], [*arguments, *way.more])
    assert done.exit_code == 0, done.output
    assert way.prints in done.output
    assert not way.leaves or any(folder.glob(way.leaves))
