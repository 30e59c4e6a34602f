"""A small model is taught by a real trainer, which is killed, asked to leave, and given nothing to learn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from rq.job import Job

from rsrefseg import checkpoint
from rsrefseg.predictor import Predictor
from tests.conftest import ImageHost
from tests.squares import dark_anchor, png, small_base, square
from tests.with_redis.conftest import wait_for
from workers.contract import Rle, Training, TrainJob
from workers.corrections import AnnotationRecord, Correction, Corrections, Mark, TaskCorrections, is_held_out
from workers.queue import JobQueue
from workers.registry import Registry
from workers.settings import Settings
from workers.snapshots import Snapshots

PATIENCE_S = 300
pytestmark = pytest.mark.timeout(900)  # Each learns for a while, on a machine that may have other things to do.
ENDS = ("promoted", "refused", "failed")


def correct(
    settings: Settings, host: ImageHost, project_id: int, numbers: Iterable[int], *, others: bool = False, day: int = 20
) -> None:
    """Somebody drew what a square refers to, in each of these tasks; or where it is in another, by mistake."""
    store = Corrections(settings.data)
    for number in numbers:
        pixels, mask = square(number)
        if others:
            mask = square(number + 7)[1]
        uri = f"/data/upload/{project_id}/{number}.png"
        host.pages[uri] = (200, png(pixels))
        correction = Correction(
            image=0, expression="the building", label="building", mask=Rle.from_mask(mask), origin="drawn"
        )
        at = datetime(2026, 11, day, tzinfo=UTC)
        record = AnnotationRecord(annotation_id=1000 * project_id + number, updated_at=at, corrections=(correction,))
        mark = Mark(project_id=project_id, task_id=number, updated_at=at.isoformat())
        store.put(TaskCorrections(mark=mark, scene=uri, image_uris=(uri,), annotations=(record,)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base")


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return dark_anchor(tmp_path / "dark")


class Nursery:
    """The process that trainers are forked from."""

    def __init__(self) -> None:
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_"))}
        script = str(Path(__file__).with_name("trainer_process.py"))
        self.process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=keep | {"OMP_NUM_THREADS": "1"},
            text=True,
        )

    def ask(self, **what: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass
class Trainer:
    """A trainer's process."""

    nursery: Nursery
    pid: int
    code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        if self.code is None:
            self.code = self.nursery.ask(wait=self.pid, seconds=seconds)
        return self.code


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    with nursery.process:
        yield nursery
        nursery.process.kill()


class StartTrainer(Protocol):
    """Starts one more."""

    def __call__(self, steps: int = 80, die: str = "") -> Trainer: ...


@pytest.fixture
def start_trainer(
    settings: Settings, base: Path, anchor: Path, tmp_path: Path, nursery: Nursery
) -> Iterator[StartTrainer]:
    started: list[Trainer] = []
    environ = {
        "REDIS_URL": str(settings.redis_url),
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": settings.label_studio_api_key.get_secret_value(),
        "RSREFSEG_DATA": str(settings.data),
        "RSREFSEG_CHECKPOINT": str(base),
        "RSREFSEG_ANCHOR": str(anchor),
    }

    def start(steps: int = 80, die: str = "") -> Trainer:
        pid = nursery.ask(start=environ, log=str(tmp_path / "trainer.log"), steps=steps, die=die)
        started.append(Trainer(nursery, pid))
        return started[-1]

    yield start
    for trainer in started:
        if trainer.wait(0) is None:
            trainer.signal(signal.SIGKILL)
            trainer.wait(10)


def told(queue: JobQueue, project_id: int = 1) -> Training:
    return queue.trainings()[project_id]


def end_of(queue: JobQueue, project_id: int = 1) -> Training:
    """The last word, once the job is over as well."""
    wait_for(lambda: told(queue, project_id).stage in ENDS, PATIENCE_S)
    wait_for(lambda: job_of(queue, project_id).is_finished, PATIENCE_S)
    return told(queue, project_id)


def job_of(queue: JobQueue, project_id: int = 1) -> Job:
    return Job.fetch(f"train-{project_id}", queue.redis, serializer="json")


def ask(queue: JobQueue, project_id: int = 1, **what: Any) -> bool:
    return queue.ask_training(TrainJob(project_id=project_id, why="asked", **what))


def left_of_run(settings: Settings) -> list[str]:
    """What the one folder of the project's last training holds."""
    [folder] = (settings.data / "runs/1").iterdir()
    return sorted(path.name for path in folder.iterdir())


def test_corrections_make_the_next_champion_once(
    queue: JobQueue, settings: Settings, image_host: ImageHost, start_trainer: StartTrainer, base: Path
) -> None:
    correct(settings, image_host, 1, range(1, 46))
    assert ask(queue)
    start_trainer()
    ended = end_of(queue)
    registry = Registry(settings.data)
    assert ended.stage == "promoted", ended.reason
    [version] = registry.versions(1)
    assert ended.version == version.version == registry.champion(1) == queue.champion(1)
    assert version.verdict.passed
    assert version.verdict.held_out is not None
    assert (ended.before, ended.after) == (
        pytest.approx(version.verdict.held_out.before, abs=0.01),
        pytest.approx(version.verdict.held_out.after, abs=0.01),
    )
    assert ended.after > ended.before + 10
    assert (ended.step, ended.steps) == (80, 80)
    snapshot = Snapshots(settings.data).newest(1)
    assert snapshot is not None
    assert version.dataset == snapshot.name
    assert version.corrections == ended.corrections == snapshot.train.corrections
    assert version.base == version.parent == checkpoint.version(base)
    predictor = Predictor.from_checkpoint(base).with_heads(registry.folder(1, version.version))
    assert predictor.version == version.version
    assert left_of_run(settings) == ["run.json", "taken"]

    wait_for(lambda: ask(queue))
    assert "Nothing is new" in wait_for(lambda: one.reason if (one := told(queue)).stage == "refused" else "", 60)

    registry.move(1, None, "rolled back")
    wait_for(lambda: ask(queue))
    said = wait_for(lambda: one.reason if "taken back" in (one := told(queue)).reason else "", 60)
    assert version.version in said
    assert registry.champion(1) is None
    assert registry.versions(1) == [version]

    correct(settings, image_host, 1, range(46, 50))
    registry.move(1, version.version, "rolled back")
    wait_for(lambda: ask(queue, promote=True))
    wait_for(lambda: len(registry.versions(1)) == 2, PATIENCE_S)
    second = wait_for(lambda: one if (one := told(queue)).stage == "promoted" else None, 60)
    assert registry.versions(1)[1].parent == version.version
    assert registry.champion(1) == second.version
    if not registry.versions(1)[1].verdict.passed:
        assert registry.history(1)[-1].why == "forced"
        assert second.reason.startswith("By hand.")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_whose_worker_goes_is_gone_on_with_by_the_next(
    queue: JobQueue,
    settings: Settings,
    image_host: ImageHost,
    start_trainer: StartTrainer,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    correct(settings, image_host, 1, range(1, 46))
    ask(queue)
    trainer = start_trainer()
    wait_for(lambda: told(queue).step > 25, PATIENCE_S)
    trainer.signal(number)
    code = trainer.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    at = told(queue).step
    assert at < 80
    asked = len(image_host.asked)
    assert not ask(queue), "it is on its way still"
    start_trainer()
    assert end_of(queue).stage == "promoted", told(queue).reason
    log = (tmp_path / "trainer.log").read_text()
    assert "training resumed" in log
    assert '"level": "error"' not in log, "nothing is wrong with leaving"
    resumed = next(json.loads(line) for line in log.splitlines() if '"training resumed"' in line)
    assert resumed["step"] >= 20
    assert len(image_host.asked) == asked, "images were fetched once"
    assert len(Registry(settings.data).versions(1)) == len(Registry(settings.data).history(1)) == 1
    assert len(Snapshots(settings.data).all(1)) == 1


def test_where_there_is_nothing_to_learn_it_says_so(
    queue: JobQueue, settings: Settings, image_host: ImageHost, start_trainer: StartTrainer
) -> None:
    held_out = [n for n in range(1, 60) if TaskCorrections.model_construct(scene=f"/data/upload/3/{n}.png").held_out]
    for n in held_out[:3]:
        correct(settings, image_host, 3, range(n, n + 1))
    correct(settings, image_host, 4, range(1, 4))
    for path in list(image_host.pages):
        if path.startswith("/data/upload/4/"):
            image_host.pages[path] = (503, b"")
    for project_id in (2, 3, 4):
        assert ask(queue, project_id)
    start_trainer()
    reasons = {project_id: end_of(queue, project_id) for project_id in (2, 3, 4)}
    assert {ended.stage for ended in reasons.values()} == {"refused"}
    assert reasons[2].reason == "There are no corrections yet: annotate some tasks."
    assert "All 3 corrections are of scenes that are held out" in reasons[3].reason
    assert "None of the images of the corrections could be had" in reasons[4].reason
    assert "/data/upload/4/" in reasons[4].reason
    assert Registry(settings.data).projects() == []


def held_out(project_id: int, number: int) -> bool:
    return is_held_out(f"/data/upload/{project_id}/{number}.png")


def test_a_challenger_that_was_taught_shuffled_masks_is_refused_and_kept_with_its_verdict(
    queue: JobQueue, settings: Settings, image_host: ImageHost, start_trainer: StartTrainer
) -> None:
    tasks = range(1, 46)
    correct(settings, image_host, 1, tasks)
    ask(queue)
    start_trainer()
    champion = end_of(queue)
    assert champion.stage == "promoted", champion.reason
    correct(settings, image_host, 1, [n for n in tasks if not held_out(1, n)], others=True, day=21)
    wait_for(lambda: ask(queue))
    refused = wait_for(lambda: one if (one := told(queue)).stage == "refused" else None, PATIENCE_S)
    registry = Registry(settings.data)
    kept = registry.get(1, str(refused.version))
    assert refused.version != champion.version
    assert kept.parent == champion.version == registry.champion(1) == queue.champion(1)
    assert not kept.verdict.passed
    assert kept.verdict.reason == refused.reason
    assert kept.verdict.held_out is not None
    assert kept.verdict.held_out.after < kept.verdict.held_out.before
    assert len(registry.history(1)) == 1


PLACES = {
    "as images are fetched": "before workers.collector:_line 20",
    "before the snapshot has a manifest": "before workers.collector:replace 1",
    "before the run is settled on": "before workers.runs:RunFolder.keep 1",
    "as images are encoded": "after rsrefseg.seen:SeenFeatures.keep 5",
    "before what was learnt is blended": "before rsrefseg.teaching:_blended 1",
    "as answers come": "after rsrefseg.results:ResultFile.add 5",
    "as scores are calibrated": "before rsrefseg.checkpoint:calibrate 1",
    "before the version is added": "before workers.registry:Registry.add 1",
    "as the version is copied": "after shutil:copytree 1",
    "after the version is added": "after workers.registry:Registry.add 1",
    "before the alias moves": "before workers.registry:Registry.move 1",
    "before workers are told": "before workers.notices:NoticeBoard.keep_champion 1",
    "before the last word": "before workers.runs:RunFolder.keep 2",
    "after the last word is kept": "after workers.runs:RunFolder.keep 2",
    "after the last word is said": "before workers.runs:RunFolder.clear 3",
    "before rq knows": "after workers.runs:RunFolder.clear 3",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_trainer_that_is_killed_anywhere_leaves_the_training_to_the_next(
    queue: JobQueue, settings: Settings, image_host: ImageHost, start_trainer: StartTrainer, tmp_path: Path, place: str
) -> None:
    correct(settings, image_host, 1, range(1, 26))
    ask(queue, promote=True)  # Too little is learnt in so few steps.
    assert start_trainer(4, PLACES[place]).wait(PATIENCE_S) == -signal.SIGKILL
    running = queue.train.started_job_registry.key
    # In place of waiting for the lease to run out.
    queue.redis.zadd(running, dict.fromkeys(queue.redis.zrange(running, 0, -1), 1))
    start_trainer(4)
    wait_for(lambda: job_of(queue).is_finished, PATIENCE_S)
    ended = told(queue)
    assert ended.stage == "promoted", ended.reason
    registry = Registry(settings.data)
    [version], [move] = registry.versions(1), registry.history(1)
    assert version.version == move.version == queue.champion(1) == ended.version
    assert len(Snapshots(settings.data).all(1)) == 1
    assert len(image_host.asked) <= 25 + 4, "no more than those that were on their way are fetched again"
    assert left_of_run(settings) == ["run.json", "taken"]
    assert '"level": "error"' not in (tmp_path / "trainer.log").read_text()


@pytest.mark.parametrize("when", ["while its successor learns", "after its successor has ended"])
def test_a_trainer_that_wakes_when_its_training_is_another_s_leaves_it_alone(
    queue: JobQueue, settings: Settings, image_host: ImageHost, start_trainer: StartTrainer, tmp_path: Path, when: str
) -> None:
    correct(settings, image_host, 1, range(1, 26))
    ask(queue, promote=True)
    first = start_trainer(150)  # Long enough that it is stopped while it learns.
    wait_for(lambda: 0 < told(queue).step < 150, PATIENCE_S)
    first.signal(signal.SIGSTOP)
    before = told(queue)
    second = start_trainer(150)
    if when == "while its successor learns":
        wait_for(lambda: told(queue).at > before.at and told(queue).step > before.step, PATIENCE_S)
        second.signal(signal.SIGSTOP)
        first.signal(signal.SIGCONT)
        log = tmp_path / "trainer.log"
        wait_for(lambda: "training left to another worker" in log.read_text(), PATIENCE_S)
        first.signal(signal.SIGKILL)  # Else it is given the training that its successor, stopped, seems to have left.
        second.signal(signal.SIGCONT)
    ended = end_of(queue)
    if when == "after its successor has ended":
        first.signal(signal.SIGCONT)
        wait_for(lambda: "training left to another worker" in (tmp_path / "trainer.log").read_text(), PATIENCE_S)
        assert told(queue) == ended
        assert job_of(queue).is_finished
    assert ended.stage == "promoted", ended.reason
    registry = Registry(settings.data)
    assert [one.version for one in registry.versions(1)] == [move.version for move in registry.history(1)]
    assert len(registry.history(1)) == 1
    assert left_of_run(settings) == ["run.json", "taken"]
    assert '"level": "error"' not in (tmp_path / "trainer.log").read_text()
