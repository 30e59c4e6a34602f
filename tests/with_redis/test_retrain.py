"""A small model is taught by a real trainer, which is killed, asked to leave, and given nothing to learn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rsrefseg import checkpoint
from rsrefseg.predictor import Predictor
from tests.conftest import ImageHost
from tests.squares import dark_anchor, png, small_base, square
from tests.with_redis.conftest import wait_for
from workers.contract import Rle, Training, TrainJob
from workers.corrections import AnnotationRecord, Correction, Corrections, Mark, TaskCorrections
from workers.queue import JobQueue
from workers.registry import Registry
from workers.settings import Settings
from workers.snapshots import Snapshots

PATIENCE_S = 240
ENDS = ("promoted", "refused", "failed")


def correct(settings: Settings, host: ImageHost, project_id: int, numbers: range) -> None:
    """Somebody drew what a square refers to, in each of these tasks."""
    store = Corrections(settings.data)
    for number in numbers:
        pixels, mask = square(number)
        uri = f"/data/upload/{project_id}/{number}.png"
        host.pages[uri] = (200, png(pixels))
        correction = Correction(
            image=0, expression="the building", label="building", mask=Rle.from_mask(mask), origin="drawn"
        )
        at = datetime(2026, 11, 20, tzinfo=UTC)
        record = AnnotationRecord(annotation_id=1000 * project_id + number, updated_at=at, corrections=(correction,))
        mark = Mark(project_id=project_id, task_id=number, updated_at=at.isoformat())
        store.put(TaskCorrections(mark=mark, scene=uri, image_uris=(uri,), annotations=(record,)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base")


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return dark_anchor(tmp_path / "dark")


StartTrainer = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start_trainer(settings: Settings, base: Path, anchor: Path, tmp_path: Path) -> Iterator[StartTrainer]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        environ = {
            "REDIS_URL": str(settings.redis_url),
            "LABEL_STUDIO_URL": settings.label_studio_url,
            "LABEL_STUDIO_API_KEY": settings.label_studio_api_key.get_secret_value(),
            "RSREFSEG_DATA": str(settings.data),
            "RSREFSEG_CHECKPOINT": str(base),
            "RSREFSEG_ANCHOR": str(anchor),
            "OMP_NUM_THREADS": "1",
        }
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_"))}
        script = Path(__file__).with_name("trainer_process.py")
        with (tmp_path / "trainer.log").open("ab") as file:
            started.append(subprocess.Popen([sys.executable, str(script)], stderr=file, env=keep | environ))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def told(queue: JobQueue, project_id: int = 1) -> Training:
    return queue.trainings()[project_id]


def end_of(queue: JobQueue, project_id: int = 1) -> Training:
    return wait_for(lambda: one if (one := told(queue, project_id)).stage in ENDS else None, PATIENCE_S)


def ask(queue: JobQueue, project_id: int = 1, **what: Any) -> bool:
    return queue.ask_training(TrainJob(project_id=project_id, why="asked", **what))


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
    assert not (settings.data / "runs/1").exists()

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
    trainer.send_signal(number)
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
