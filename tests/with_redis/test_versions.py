"""Versions of projects on real workers: promoted, taken back and corrupted while requests stream in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer

import pytest
from click.testing import CliRunner, Result

from ml_backend.cli import main
from tests.factories import make_job, make_version
from tests.with_redis.conftest import WorkerProcess, answers_in, wait_for
from workers.cli import main as worker_main
from workers.contract import Answer
from workers.queue import JobQueue
from workers.registry import Comparison, Registry, Verdict

StartWorker = Callable[[], WorkerProcess]

BASE = "obedient@1"


@pytest.fixture
def registry(queue: JobQueue, tmp_path: Path) -> Registry:
    """A registry with versions v1 and v2 of project 1, v3 of project 2, and a corrupt one of project 1."""
    registry = Registry(queue.settings.data)
    files = tmp_path / "files"
    files.mkdir()
    for project_id, name in ((1, "v1"), (1, "v2"), (1, "corrupt"), (2, "v3")):
        (files / "heads").write_text(name)
        registry.add(make_version(name, project_id=project_id), files)
    return registry


@pytest.fixture
def models(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, on the test's own Redis and data."""
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    monkeypatch.setenv("RSREFSEG_DATA", str(queue.settings.data))
    monkeypatch.setenv("COLUMNS", "300")

    def run(verb: str, *options: str, project: int = 1) -> Result:
        return CliRunner().invoke(main, ["models", verb, "--project", str(project), *options])

    return run


def answered_by(queue: JobQueue, task_id: int, project_id: int = 1) -> str:
    """The version that answers one more request."""
    queue.submit([make_job(task_id, project_id=project_id)])
    return str(wait_for(lambda: [a for a in answers_in(queue) if a.job.task_id == task_id], 60)[0].model_version)


@contextmanager
def streaming(queue: JobQueue) -> Iterator[list[int]]:
    """Requests of project 1, of which some wait all the time, by the numbers of their tasks."""
    sent: list[int] = []
    ended = Event()

    def stream() -> None:
        while not ended.is_set():
            if queue.counts()["waiting"] < 5:
                queue.submit([make_job(1000 + len(sent), expressions=("sleep 0.01",))])
                sent.append(1000 + len(sent))
            time.sleep(0.005)

    thread = Thread(target=stream)
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("registry")
def test_while_requests_stream_in_versions_are_promoted_and_taken_back_and_none_is_refused(
    queue: JobQueue, start_worker: StartWorker, models: Callable[..., Result]
) -> None:
    start_worker()
    wait_for(queue.model_version)
    moves = [(BASE, None), ("v1", ["promote", "--version", "v1"]), ("v2", ["promote", "--version", "v2"])]
    moves += [("v1", ["rollback"]), (BASE, ["rollback"])]
    with streaming(queue) as sent:
        marks = []
        for version, command in moves:
            if command:
                assert models(*command).exit_code == 0
            after = len(sent) + 1  # What is sent from now on is of the new version.
            marks.append((1000 + after, version))
            wait_for(lambda after=after: queue.counts()["to_deliver"] > after + 10, 60)
    wait_for(lambda: queue.counts()["to_deliver"] == len(sent), 60)
    assert queue.failures() == []
    answers = sorted(answers_in(queue), key=lambda answer: answer.job.task_id)
    assert [answer.job.task_id for answer in answers] == sent, "none is missing, none is twice"
    for first, version in marks:
        assert {a.model_version for a in answers if first <= a.job.task_id < first + 10} == {version}


@pytest.mark.usefixtures("registry")
def test_workers_that_are_killed_as_the_alias_moves_lose_and_double_nothing(
    queue: JobQueue, start_worker: StartWorker, models: Callable[..., Result]
) -> None:
    workers = [start_worker(), start_worker()]
    wait_for(queue.model_version)
    moves = [["promote", "--version", "v1"], ["promote", "--version", "v2"], ["rollback"], ["rollback"]]
    with streaming(queue) as sent:
        for number, command in enumerate(moves):
            before = queue.counts()["to_deliver"]
            wait_for(lambda before=before: queue.counts()["to_deliver"] > before + 5, 60)
            killer = Timer(0.05 * number, workers.pop(0).process.kill)
            killer.start()
            assert models(*command).exit_code == 0
            killer.join()
            workers.append(start_worker())
    wait_for(lambda: queue.counts()["to_deliver"] == len(sent), 120)
    assert queue.failures() == []
    assert sorted(answer.job.task_id for answer in answers_in(queue)) == sent, "none is missing, none is twice"
    assert answered_by(queue, 1) == BASE


@pytest.mark.usefixtures("registry")
def test_each_project_is_answered_by_its_own_champion_on_one_worker(
    queue: JobQueue, start_worker: StartWorker, models: Callable[..., Result]
) -> None:
    models("promote", "--version", "v1")
    models("promote", "--version", "v3", project=2)
    start_worker()
    assert [answered_by(queue, project, project) for project in (1, 2, 3)] == ["v1", "v3", BASE]
    job = make_job(9, interactive=True, project_id=2)
    queue.submit([job], front=True)
    reply = queue.wait_for_reply(job, timeout_s=10)
    assert isinstance(reply, Answer)
    assert reply.model_version == "v3"


@pytest.mark.usefixtures("registry")
def test_a_corrupt_version_leaves_the_champion_serving_and_everybody_is_told(
    queue: JobQueue, start_worker: StartWorker, models: Callable[..., Result]
) -> None:
    models("promote", "--version", "v1")
    worker = start_worker()
    assert answered_by(queue, 1) == "v1"
    models("promote", "--version", "corrupt")
    assert answered_by(queue, 2) == "v1"
    worker.process.kill()
    start_worker()
    assert answered_by(queue, 3) == "v1", "also on a worker that never saw it serve"
    assert queue.failures() == []

    said = json.loads(CliRunner().invoke(worker_main, ["status", "--json"]).output)
    assert said["champions"] == {"1": "corrupt"}
    [trouble] = said["troubles"]["1"]
    assert "are damaged" in trouble["reason"]
    table = CliRunner().invoke(worker_main, ["status"]).output
    assert "are damaged" in table
    assert "models rollback" in table
    assert "what served before goes on" in models("list").output

    assert models("rollback").exit_code == 0
    assert answered_by(queue, 4) == "v1"
    assert json.loads(CliRunner().invoke(worker_main, ["status", "--json"]).output)["troubles"] == {}


KILLED = """
import os, signal, sys
from workers.notices import NoticeBoard
NoticeBoard.keep_champion = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from ml_backend.cli import main
main(["models", *sys.argv[1:]])
"""


def test_who_is_killed_between_the_registry_and_redis_is_finished_by_the_same_command(
    queue: JobQueue, registry: Registry, models: Callable[..., Result]
) -> None:
    def killed(*command: str) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, *command, "--project", "1"], env=os.environ, check=False)
        assert done.returncode == -9

    models("promote", "--version", "v1")
    killed("promote", "--version", "v2")
    assert (registry.champion(1), queue.champion(1)) == ("v2", "v1")
    assert "Workers were not told of the last move" in models("list").output
    assert "served by v2, as it was before" in models("promote", "--version", "v2").output
    assert queue.champion(1) == "v2"

    killed("rollback")
    assert (registry.champion(1), queue.champion(1)) == ("v1", "v2")
    assert "served by v1 from now on, in place of v2" in models("rollback").output
    assert (registry.champion(1), queue.champion(1)) == ("v1", "v1")
    assert [move.number for move in registry.history(1)] == [1, 2, 3], "none is there twice"


# The command itself.


def test_a_project_without_versions_says_where_they_come_from(models: Callable[..., Result]) -> None:
    assert "the workers' base serves it" in models("list").output
    refused = models("rollback")
    assert refused.exit_code == 2
    assert "nothing to roll back" in refused.output


def test_the_list_has_scores_verdicts_and_who_serves_since_when(
    queue: JobQueue, registry: Registry, models: Callable[..., Result], tmp_path: Path
) -> None:
    queue.announce(BASE)
    held_out = Comparison(samples=80, scenes=20, before=41.0, after=52.5, low=8.25, high=14.0)
    anchor = held_out.model_copy(update={"after": 40.5, "low": -1.0, "high": 0.25})
    verdict = Verdict(passed=True, reason="It gained 11.5 points.", held_out=held_out, anchor=anchor)
    (tmp_path / "files" / "heads").write_text("v4")
    registry.add(make_version("v4", parent="v1", verdict=verdict), tmp_path / "files")
    models("promote", "--version", "v2")
    models("promote", "--version", "v4")
    lines = models("list").output.splitlines()
    [base] = [line for line in lines if BASE in line]
    assert "(base)" in base
    [mine] = [line for line in lines if "v4" in line]
    for shown in ("41.0 → 52.5 [+8.2 … +14.0]", "41.0 → 40.5", "passed: It gained 11.5 points.", "50 corrections"):
        assert shown in mine
    assert "since 20" in mine
    [former] = [line for line in lines if " v2 " in line]
    assert "was, promoted" in former
    said = json.loads(models("list", "--json").output)
    assert (said["base"], said["champion"], said["told"]) == (BASE, "v4", "v4")
    assert [version["version"] for version in said["versions"]] == ["v1", "v2", "corrupt", "v4"]
    assert [move["version"] for move in said["history"]] == ["v2", "v4"]


def test_the_weights_of_old_versions_that_never_served_are_removed_and_their_scores_stay(
    registry: Registry, models: Callable[..., Result]
) -> None:
    models("promote", "--version", "v1")
    assert models("prune", "--keep", "5").output == "There was nothing to remove.\n"
    assert models("prune", "--keep", "1").output == "Removed the weights of v2.\n"
    assert [registry.has_weights(1, name) for name in ("v1", "v2", "corrupt")] == [True, False, True]
    assert [one["version"] for one in json.loads(models("list", "--json").output)["versions"]] == [
        "v1",
        "v2",
        "corrupt",
    ]
    assert json.loads(models("prune", "--keep", "1", "--json").output) == {"pruned": []}
    assert models("prune", "--keep", "0").exit_code == 2


def test_a_version_that_the_gate_refused_is_promoted_by_force_and_that_is_remembered(
    registry: Registry, models: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "files" / "heads").write_text("v4")
    refused = make_version("v4", verdict=Verdict(passed=False, reason="It lost."))
    registry.add(refused, tmp_path / "files")
    assert json.loads(models("promote", "--version", "v4", "--json").output)["champion"] == "v4"
    move = registry.last_move(1)
    assert move is not None
    assert move.why == "forced"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["promote", "--version", "v9"], "no version 'v9'; `rsrefseg-backend models list`"),
        (["promote", "--version", "../v1"], "no version '../v1'"),
        (["promote", "--version", "v3"], "no version 'v3'"),
        (["rollback", "--version", "v2"], "v2 never served project 1"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    models: Callable[..., Result], command: list[str], reason: str
) -> None:
    done = models(*command)
    assert done.exit_code == 2
    assert reason in done.output


def test_a_named_version_and_the_base_can_be_gone_back_to(registry: Registry, models: Callable[..., Result]) -> None:
    for name in ("v1", "v2"):
        models("promote", "--version", name)
    models("promote", "--version", "corrupt")
    assert models("rollback", "--version", "v1").exit_code == 0
    assert registry.champion(1) == "v1"
    assert models("promote", "--version", "base").exit_code == 0
    assert registry.champion(1) is None
    models("rollback")
    assert registry.champion(1) == "v1"


# The real model.


@pytest.fixture
def taught(queue: JobQueue, tmp_path: Path) -> dict[int, str]:
    """Heads over the shipped weights that were moved a little, one version of each of three projects."""
    import torch

    from rsrefseg import Predictor, checkpoint
    from rsrefseg.heads import head_names

    registry, base = Registry(queue.settings.data), Predictor.from_preset("tiny")
    torch.manual_seed(0)
    versions = {}
    for project_id in (1, 2, 3):
        with torch.no_grad():
            for name, value in base.model.state_dict().items():
                if name in head_names(base.model) and value.is_floating_point() and "running_" not in name:
                    value.mul_(1 + 0.02 * torch.randn_like(value))
        folder = tmp_path / f"heads{project_id}"
        checkpoint.save_heads(base.model, folder, "card", base.version)
        versions[project_id] = checkpoint.version(folder)
        registry.add(make_version(versions[project_id], project_id=project_id, base=base.version), folder)
    weights = registry.folder(3, versions[3]) / checkpoint.WEIGHTS
    held = bytearray(weights.read_bytes())
    held[-1000] ^= 1  # One bit, which no format notices.
    weights.write_bytes(held)
    return versions


@pytest.mark.timeout(600)  # Torch is imported twice, which takes minutes where the machine has other things to do.
def test_a_real_worker_hangs_champions_over_one_model_and_refuses_one_of_which_a_bit_has_turned(
    queue: JobQueue, taught: dict[int, str], models: Callable[..., Result], tmp_path: Path
) -> None:
    for project_id, version in taught.items():
        assert models("promote", "--version", version, project=project_id).exit_code == 0
    command = [sys.executable, "-m", "workers.cli", "run", "--gpus", "cpu"]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "LABEL_STUDIO_URL": queue.settings.label_studio_url}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, env=environ, stderr=log)
    try:
        base = wait_for(queue.model_version, 240)
        assert [answered_by(queue, project, project) for project in (1, 2, 3, 4)] == [taught[1], taught[2], base, base]
        [trouble] = queue.troubles()[3]
        assert "are not what they were" in trouble.reason
        assert queue.failures() == []
        scores = {answer.job.project_id: answer.found[0].score for answer in answers_in(queue)}
        assert len(set(scores.values())) == 3, "each champion says something else of the same image"
        assert scores[3] == scores[4], "and the base what it said before"
    finally:
        worker.kill()
        worker.wait()
