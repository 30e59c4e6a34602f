"""Every command in the docs is one that its program takes, and is run: here, by another test, or not for a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rsrefseg.samples import write_samples
from tests.documented import Shown, check, shown_commands, shown_in_prose
from tests.reference import PROGRAMS
from tests.sources import NoSuchTest, words_of
from workers.settings import Settings


@dataclass(frozen=True)
class Here:
    """It is run below, with more words that make it small, and leaves a file or prints a text."""

    more: tuple[str, ...] = ()
    leaves: str = ""
    prints: str = ""


class By:
    """Other tests run it: their names as pytest has them. What a page shows of it, they have to say among them."""

    def __init__(self, *tests: str, words: tuple[str, ...] = ()) -> None:
        self.tests = tests
        self.words = words
        """What they have to say of a program that is not ours."""


class Loads:
    """It sets variables, and the settings of its page are loaded below."""


@dataclass(frozen=True)
class NotRun:
    """Nothing runs it as it stands here, for a reason."""

    reason: str


CONTINUOUS = NotRun("it is what runs the tests")
UNIT, REDIS, STUDIO = "tests/unit/rsrefseg", "tests/with_redis", "tests/with_label_studio"
BACKEND = "tests/unit/ml_backend"
SHOWN = f"{UNIT}/test_shown_commands.py"
WHOLE_PROJECT = "test_a_whole_project_gets_its_masks_by_one_command"

HOW: dict[str, Here | By | Loads | NotRun] = {
    r"make demo( .*)?$": By(
        f"{STUDIO}/test_demo.py::test_once_prelabels_the_users_own_images_and_ends_well", words=("demo", "--once")
    ),
    r"make demo-loop": By(
        f"{STUDIO}/test_demo_loop.py::test_the_loop_is_closed_on_a_users_own_images", words=("demo-loop", "--once")
    ),
    r"make (test|lint|setup|site|audit)": CONTINUOUS,
    r"make pictures": NotRun("it is the demos with a browser beside them, for half an hour"),
    r"make bench": NotRun("it measures, for minutes to hours"),
    r"rsrefseg segment .*--checkpoint": By(f"{SHOWN}::test_an_image_is_asked_with_a_checkpoint_of_ones_own"),
    r"rsrefseg segment scene.png": Here(leaves="masks/*.png"),
    r"rsrefseg scenes": Here(("--size", "128"), leaves="scenes/expressions.csv"),
    r"rsrefseg evaluate --dataset scenes": Here(("--count", "1"), prints="IoU"),
    r"rsrefseg evaluate": By(
        f"{UNIT}/test_evaluate.py::test_the_command_prints_one_object_and_keeps_all_it_is_asked_to",
        f"{SHOWN}::test_a_split_is_evaluated_on_a_device",
    ),
    r"rsrefseg probe --dataset scenes": Here(("--count", "1"), prints="IoU"),
    r"rsrefseg probe": By(f"{SHOWN}::test_a_checkpoint_is_probed_on_a_dataset"),
    r"rsrefseg calibrate": By(f"{SHOWN}::test_a_checkpoint_that_is_right_about_absent_classes_alone_is_not_calibrated"),
    r"rsrefseg train-tiny": By(
        f"{UNIT}/test_train_commands.py::test_tiny_is_trained_from_nothing_in_one_command",
    ),
    r"rsrefseg train ": By(
        f"{UNIT}/test_train_commands.py::test_a_model_is_taught_further_on_a_benchmark_and_scored_by_the_next_command",
    ),
    r"torchrun": By(
        f"{UNIT}/test_train.py::test_two_processes_take_the_steps_of_one_with_twice_the_batch",
        words=("--nproc-per-node",),
    ),
    r"rsrefseg weights fetch": By(
        f"{UNIT}/test_download.py::test_the_command_fetches_everything",
        f"{UNIT}/test_download.py::test_the_command_fetches_the_words_alone",
    ),
    r"rsrefseg convert": By(f"{UNIT}/test_convert.py::test_the_command_says_what_came_of_it"),
    r"export ": Loads(),
    r"rsrefseg-worker run": By(
        f"{REDIS}/test_supervised.py::test_a_worker_can_be_kept_for_those_requests_that_a_person_waits_for",
        f"{REDIS}/test_supervised.py::test_a_worker_can_be_kept_for_training_and_its_jobs_come_again_when_it_dies",
    ),
    r"rsrefseg-worker status": Here(("--once",), prints="Requests"),
    r"rsrefseg-backend (courier|web)$": By(f"{STUDIO}/test_whole_project.py::{WHOLE_PROJECT}"),
    r"rsrefseg-backend (connect|doctor)": By(
        f"{STUDIO}/test_doctor.py::test_a_fresh_project_is_all_wrong_and_connect_makes_it_right",
        f"{STUDIO}/test_doctor.py::test_a_personal_access_token_and_a_new_project",
    ),
    r"rsrefseg-backend prelabel": By(f"{STUDIO}/test_whole_project.py::{WHOLE_PROJECT}"),
    r"rsrefseg-backend retrain": By(
        f"{REDIS}/test_retrain_command.py::test_it_says_what_is_new_and_who_is_missing",
        f"{REDIS}/test_retrain_command.py::test_who_waits_hears_how_it_ended",
    ),
    r"rsrefseg-backend retry": By(
        f"{REDIS}/test_retry_command.py::test_all_that_failed_is_on_its_way_again_and_what_is_gone_leaves_the_list",
    ),
    r"rsrefseg-backend models prune": By(
        f"{REDIS}/test_versions.py"
        "::test_the_weights_of_old_versions_that_never_served_are_removed_and_their_scores_stay",
    ),
    r"rsrefseg-backend models": By(
        f"{REDIS}/test_versions.py::test_a_corrupt_version_leaves_the_champion_serving_and_everybody_is_told"
    ),
    r"rsrefseg-backend dataset": By(f"{BACKEND}/test_dataset.py::test_the_command_prints_json_or_tables"),
    r"rsrefseg-backend select": By(
        f"{STUDIO}/test_selection.py::test_the_order_is_a_number_in_each_task_that_the_data_manager_sorts_by",
    ),
    r"rsrefseg-backend curve": By(f"{BACKEND}/test_curve.py::test_the_command_prints_json_and_draws"),
    r"cp \.env\.example|git pull": NotRun("it prepares what docker compose then reads"),
    r"(mkdir|cp|tar|rm) ": By(
        f"{REDIS}/test_backup.py::test_a_copy_of_running_processes_brings_everything_back", words=("docs/backup.md",)
    ),
    r"\.venv/bin/pre-commit install": NotRun("it changes the clone; tests/contracts/test_habits.py reads the hooks"),
    r"\.venv/bin/python -c": Here(prints="False"),
    r"deploy/images\.sh": NotRun("it builds images, for minutes and as root; docs/deploy.md says what came of it"),
    r"docker|buildah|kubectl|helm": NotRun(
        "no engine and no cluster here; tests/contracts/test_deployment.py reads the files"
    ),
    r"pip install|label-studio-ml": NotRun("it downloads from the internet; what it starts is tested as a module"),
}
"""The first pattern that a command begins with says how it is run."""


def how(shown: Shown) -> Here | By | Loads | NotRun:
    line = " ".join(shown.in_container)
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


@pytest.mark.parametrize(
    "shown",
    [shown for shown in shown_commands() if isinstance(how(shown), By)],
    ids=lambda shown: f"{shown.page}:{shown.number}",
)
def test_what_a_page_shows_is_among_the_words_of_the_tests_that_run_it(shown: Shown):
    way = how(shown)
    assert isinstance(way, By)
    said = frozenset.union(*(words_of(test) for test in way.tests))
    assert said >= (set(way.words) or words_that_matter(shown.in_container))


def words_that_matter(words: list[str]) -> set[str]:
    """The commands and the options, but for their values."""
    command, found = PROGRAMS[words[0]], set()
    for word in words[1:]:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
            found.add(word)
        elif word.startswith("--"):
            found.add(word)
    return found


def test_a_test_that_is_not_there_or_says_something_else_is_noticed():
    with pytest.raises(NoSuchTest):
        words_of("tests/contracts/test_commands_in_docs.py::test_of_nothing")
    here = words_of(f"{REDIS}/test_retry_command.py::test_one_task_alone_can_be_asked_again")
    assert {"retry", "--project", "--task"} <= here, "its own words, and those of the fixture that it uses"
    assert "--keep" not in here
    assert words_that_matter(["rsrefseg-backend", "models", "prune", "--project", "3", "--keep", "5"]) == {
        "models", "prune", "--project", "--keep",
    }  # fmt: skip


EXPORTS = [shown for shown in shown_commands() if isinstance(how(shown), Loads)]


@pytest.mark.parametrize("page", sorted({shown.page for shown in EXPORTS}))
def test_the_variables_that_a_page_sets_are_settings_of_ours_together(page: str):
    pairs = [word.split("=", 1) for shown in EXPORTS if shown.page == page for word in shown.words[1:]]
    settings = Settings.load(dict(pairs))
    fields = Settings.variables()
    for name, value in pairs:
        held = getattr(settings, fields[name])
        assert value in (str(held), getattr(held, "get_secret_value", str)(), str(getattr(settings, fields[name])))


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
    program, *arguments = shown.in_container
    if program in PROGRAMS:
        done = CliRunner().invoke(PROGRAMS[program], [*arguments, *way.more])
        assert done.exit_code == 0, done.output
        printed = done.output
    else:
        printed = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
    assert way.prints in printed
    assert not way.leaves or any(folder.glob(way.leaves))
