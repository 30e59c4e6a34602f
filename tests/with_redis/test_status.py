from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.factories import make_answer, make_image_uri, make_job
from tests.with_redis.conftest import WorkerProcess, wait_for
from workers.cli import main
from workers.contract import Training
from workers.failures import Failure
from workers.leased import is_of
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.status import Status, names_of_workers, status_of, watch


def test_status_shows_what_waits_who_works_on_what_and_what_failed(
    queue: JobQueue, start_worker: Callable[[], WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    queue.submit([make_job(1, expressions=("sleep 60",)), make_job(2, image_uri=make_image_uri((9, 9)))])
    queue.submit([make_job(4, project_id=2)])
    for task_id in (5, 6):
        queue.settle(make_job(task_id))
    queue.record_failure(Failure.of(make_job(3), "predict", "annotator", "Label Studio has no [image]."))
    wait_for(start_worker().began)

    seen = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)
    assert (seen["waiting"], seen["running"], seen["to_deliver"], seen["failed"]) == (1, 2, 0, 1)
    assert seen["projects"] == {"1": 2, "2": 1}
    assert seen["model_version"] == "obedient@1"
    [worker] = seen["workers"]
    assert worker["state"] == "busy"
    assert worker["job"].startswith("chunk-")
    assert (worker["works_on"], worker["device"]) == ("2 requests of project 1", "cpu")
    assert seen["failures"][0]["reason"] == "Label Studio has no [image]."

    monkeypatch.setenv("COLUMNS", "300")
    table = CliRunner().invoke(main, ["status"]).output
    for shown in ("obedient@1", "busy", "Label Studio has no [image].", "the ship", "2 requests of project 1"):
        assert shown in table


def test_alive_says_whether_this_host_takes_jobs(
    queue: JobQueue, start_worker: Callable[[], WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    nobody = CliRunner().invoke(main, ["alive"])
    assert (nobody.exit_code, nobody.output) == (1, "Nothing on this host takes jobs.\n")
    start_worker()

    def lives() -> bool:
        return CliRunner().invoke(main, ["alive"]).exit_code == 0

    wait_for(lives)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert not lives()


def test_alive_asks_little_of_redis_however_much_has_failed(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    for task in range(50):
        queue.record_failure(Failure.of(make_job(task), "predict", "ours", "it broke"))
    queue.redis.config_resetstat()
    CliRunner().invoke(main, ["alive"])
    asked = {name.removeprefix("cmdstat_").partition("|")[0] for name in queue.redis.info("commandstats")}
    assert asked - {"client", "config", "hello", "info", "ping"} == {"smembers"}, (
        "and whether those who stand there live"
    )


def test_a_redis_that_is_away_is_no_reason_to_start_anew(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    pid = redis_server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        frozen = CliRunner().invoke(main, ["alive"])
        assert time.monotonic() - began < 13, "the probes of containers wait for 15 s"
    finally:
        os.kill(pid, signal.SIGCONT)
    redis_server.stop()
    for seen in (frozen, CliRunner().invoke(main, ["alive"])):
        assert seen.exit_code == 0
        assert "It is waited for." in seen.output


def test_who_is_forgotten_by_redis_is_alive_again_soon(
    queue: JobQueue,
    start_worker: Callable[[], WorkerProcess],
) -> None:
    start_worker()
    script = str(Path(__file__).with_name("courier_process.py"))
    ours = {"REDIS_URL": str(queue.settings.redis_url), "LABEL_STUDIO_URL": "http://127.0.0.1:9"}
    courier = subprocess.Popen([sys.executable, script], env=os.environ | ours | {"LABEL_STUDIO_API_KEY": "0" * 40})
    try:
        wait_for(lambda: len(names_of_workers(queue)) == 2, 60)
        queue.redis.flushall()
        wait_for(lambda: len(names_of_workers(queue)) == 2, 60)
    finally:
        courier.kill()
        courier.wait()


@pytest.mark.parametrize(
    ("name", "host", "it_is"),
    [
        ("gpu-3-17-0a1b", "gpu-3", True),
        ("courier-gpu-3-17-0a1b", "gpu-3", True),
        ("rack-gpu-3-17-0a1b", "gpu-3", False),
        ("gpu-3-4-17-0a1b", "gpu-3", False),
        ("gpuX3-17-0a1b", "gpu.3", False),
    ],
)
def test_a_process_is_known_by_the_whole_name_of_its_host(name: str, host: str, it_is: bool) -> None:
    assert is_of(name, host) == it_is


def test_status_tells_how_fast_answers_come_and_go(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: at)
    for task_id in range(12):
        queue.deliver(make_answer(make_job(task_id)))
    queue.settle(make_job(0))
    assert queue.rates() == {"answered_per_s": 0, "delivered_per_s": 0}, "the seconds under way do not count yet"
    at += 20
    assert queue.rates() == {"answered_per_s": 12 / 60, "delivered_per_s": 1 / 60}
    at += 60
    assert queue.rates() == {"answered_per_s": 0, "delivered_per_s": 0}


def test_status_in_a_terminal_is_looked_at_again_until_ctrl_c(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> Status:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return status_of(queue)

    monkeypatch.setattr("workers.status.LOOK_S", 0.0)
    console = Console(file=StringIO(), force_terminal=True, width=200)
    watch(look, console)
    assert len(looks) == 3
    watch(lambda: status_of(queue), console, once=True)
    assert "Nothing is on its way." in console.file.getvalue()  # type: ignore[attr-defined]


def test_status_shows_how_far_trainings_are(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", str(queue.settings.redis_url))
    monkeypatch.setenv("COLUMNS", "250")
    assert "Nothing was taught yet." in CliRunner().invoke(main, ["status"]).output
    at = datetime(2026, 11, 24, tzinfo=UTC)
    began = {"why": "count", "began_at": at, "at": at}
    queue.keep_training(Training(project_id=7, stage="learning", step=20, steps=125, loss=1.5, corrections=50, **began))
    ended = {"version": "tiny@3fa94c12", "before": 30.1, "after": 51.2, "reason": "It is better: [so]."}
    queue.keep_training(Training(project_id=9, stage="promoted", step=60, steps=60, **ended, **began))
    queue.keep_training(Training(project_id=8, stage="scoring", done=12, of=80, step=60, steps=60, **began))
    first, third, second = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)["trainings"]
    assert (first["project_id"], first["stage"], first["step"], first["loss"]) == (7, "learning", 20, 1.5)
    assert second | ended == second
    assert (third["done"], third["of"]) == (12, 80)
    table = CliRunner().invoke(main, ["status"]).output
    for shown in (
        "20/125",
        "scoring 12/80",
        "1.500",
        "learning",
        "30.1 to 51.2",
        "tiny@3fa94c12",
        "It is better: [so].",
    ):
        assert shown in table
