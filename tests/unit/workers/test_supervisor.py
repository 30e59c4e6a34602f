"""Real processes and real signals; the children are scripts of a few lines, so nothing here needs a model or Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from workers.leased import Pace

PATIENCE_S = 60.0

SUPERVISOR = """
import json, sys
from workers import logs, supervisor
logs.configure()
supervisor.FIRST_PAUSE_S = supervisor.LOOK_S = 0.05
commands, hung_s, stop_s = json.loads(sys.argv[1])
sys.exit(supervisor.supervise(commands, hung_s, stop_s, hopeless=2))
"""

WORKER = """
import ctypes, os, signal, sys, time
from workers import progress

def note(word):
    with open(sys.argv[1], "a") as diary:
        diary.write(f"{word} {os.getpid()}\\n")

asked = []
def ask(number, _frame):
    asked.append(number)
    note(f"asked-{number}")
for number in (signal.SIGTERM, signal.SIGINT, progress.LEAVE):
    signal.signal(number, ask)

def hold_the_gil(seconds):
    ctypes.PyDLL(None).sleep(seconds)

progress.report_to(int(sys.argv[sys.argv.index("--line") + 1]), float(sys.argv[2]))
note("began")
"""

LIVE = """
progress.idle()
while not asked:
    time.sleep(0.05)
note("ended")
"""

DEAF = """
progress.idle()
while True:
    time.sleep(0.05)
"""


@dataclass
class Supervised:
    """A supervisor and what its children wrote down."""

    process: subprocess.Popen[bytes]
    diaries: list[Path]
    log: Path

    def diary(self, child: int = 0) -> list[str]:
        """The words that one child wrote, in all of its lives."""
        return [line.split()[0] for line in self._lines(child)]

    def pid(self, child: int = 0) -> int:
        """Of its latest life."""
        return int(self._lines(child)[-1].split()[1])

    def _lines(self, child: int) -> list[str]:
        return self.diaries[child].read_text().splitlines() if self.diaries[child].exists() else []

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log that say so."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


Start = Callable[..., Supervised]


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return seen


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def start(*bodies: str, hung_s: float = 60, stop_s: float = 60) -> Supervised:
        diaries = [tmp_path / f"diary{number}" for number in range(len(bodies))]
        commands = [
            [sys.executable, "-c", WORKER + body, str(diary), str(stop_s)]
            for body, diary in zip(bodies, diaries, strict=True)
        ]
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, json.dumps([commands, hung_s, stop_s])],
                stderr=file,
                start_new_session=True,
            )
        started.append(Supervised(process, diaries, log))
        return started[-1]

    yield start
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()
        for child, diary in enumerate(supervised.diaries):
            if diary.exists() and runs(supervised.pid(child)):
                os.kill(supervised.pid(child), signal.SIGKILL)


def test_a_process_that_dies_is_started_again_and_its_neighbour_goes_on_and_all_end_together(start: Start) -> None:
    supervised = start(LIVE, "progress.idle(); progress.busy(); sys.exit(1)")
    wait_for(lambda: supervised.diary(1).count("began") >= 3)
    assert supervised.diary(0) == ["began"]
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0
    assert supervised.diary(0)[-1] == "ended"
    assert {line["exit_code"] for line in supervised.logged("worker died")} == {1}


def test_a_process_that_can_never_run_ends_them_all_with_its_code(start: Start) -> None:
    supervised = start(LIVE, "sys.exit(2)")
    assert supervised.process.wait(PATIENCE_S) == 2
    assert not runs(supervised.pid(0))


def test_the_same_code_of_one_that_could_run_is_a_death_like_any_other(start: Start) -> None:
    supervised = start(LIVE, "progress.idle(); sys.exit(2)")
    wait_for(lambda: supervised.logged("worker given up"))
    assert runs(supervised.pid(0))


def test_one_that_dies_before_any_job_is_given_up_loudly_and_the_others_go_on(start: Start) -> None:
    supervised = start(LIVE, "sys.exit(3)")
    [line] = wait_for(lambda: supervised.logged("worker given up"))
    assert (line["level"], line["exit_code"], line["deaths"], line["move"]) == ("critical", 3, 5, "ours")
    assert supervised.diary(1) == ["began"] * 5
    assert runs(supervised.pid(0))
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0


def test_when_none_is_left_the_supervisor_says_so_by_its_code(start: Start) -> None:
    supervised = start("sys.exit(3)", "os.kill(os.getpid(), signal.SIGSEGV)")
    assert supervised.process.wait(PATIENCE_S) == 69
    assert {line["exit_code"] for line in supervised.logged("worker given up")} == {3, -signal.SIGSEGV}


def test_jobs_that_kill_their_worker_never_make_it_given_up(start: Start) -> None:
    supervised = start("progress.idle(); progress.busy(); os.kill(os.getpid(), signal.SIGSEGV)")
    wait_for(lambda: supervised.diary().count("began") >= 6)
    assert supervised.logged("worker given up") == []
    pauses = [line["again_in_s"] for line in supervised.logged("worker died")]
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]


def test_a_job_that_ended_makes_the_next_pause_short_again(start: Start) -> None:
    supervised = start("progress.idle(); progress.busy(); progress.idle(); sys.exit(1)")
    wait_for(lambda: len(supervised.logged("worker died")) >= 3)
    assert {line["again_in_s"] for line in supervised.logged("worker died")} == {0.05}


def test_one_that_hangs_while_it_holds_the_gil_is_killed_from_outside_and_started_again(start: Start) -> None:
    hangs_once = """
if os.path.getsize(sys.argv[1]) < 20:
    progress.idle(); progress.busy()
    hold_the_gil(1000)
"""
    supervised = start(hangs_once + LIVE, hung_s=1)
    wait_for(lambda: supervised.diary() == ["began", "began"])
    assert len(supervised.logged("worker hangs, so it is killed")) == 1
    [died] = supervised.logged("worker died")
    assert died["exit_code"] == -signal.SIGKILL


def test_one_that_gets_on_or_has_nothing_to_do_or_loads_is_not_taken_for_hung(start: Start) -> None:
    gets_on = """
progress.idle()
for _ in range(40):
    progress.busy()
    time.sleep(0.1)
"""
    loads = "time.sleep(5)"
    supervised = start(gets_on + LIVE, LIVE, loads + LIVE, hung_s=3)
    time.sleep(5)
    assert [supervised.diary(child) for child in range(3)] == [["began"]] * 3
    wait_for(lambda: supervised.logged("worker still loads"))
    assert supervised.logged("worker died") == []


def test_a_step_costs_next_to_nothing_and_silence_costs_nothing(start: Start) -> None:
    timed = """
progress.idle()
at = time.perf_counter()
for _ in range(10_000):
    progress.busy()
note(f"{(time.perf_counter() - at) / 10_000:.9f}")
"""
    supervised = start(timed + LIVE)
    wait_for(lambda: len(supervised.diary()) == 2)
    assert float(supervised.diary()[1]) < 50e-6


def test_sigterm_lets_the_batch_in_hand_end(start: Start) -> None:
    batch = """
progress.idle(); progress.busy()
while not asked:
    time.sleep(0.05)
time.sleep(1.5)
note("batch-ended")
"""
    supervised = start(batch)
    wait_for(supervised.diary)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0
    assert supervised.diary() == ["began", f"asked-{signal.SIGUSR2}", "batch-ended"]


def test_one_that_does_not_leave_in_time_is_killed(start: Start) -> None:
    supervised = start("progress.idle(); note('ready'); hold_the_gil(1000)", stop_s=1)
    wait_for(lambda: supervised.diary() == ["began", "ready"])
    at = time.monotonic()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0
    assert 1 <= time.monotonic() - at < 20
    assert supervised.logged("workers did not leave in time, so they are killed")
    assert not runs(supervised.pid())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_makes_them_leave_at_once(start: Start, number: signal.Signals) -> None:
    obeys = DEAF.replace("True", "signal.SIGTERM not in asked")
    supervised = start(obeys, DEAF)
    wait_for(lambda: supervised.diary(0) and supervised.diary(1))
    supervised.process.send_signal(number)
    wait_for(lambda: len(supervised.diary(0)) == 2)
    time.sleep(1.1)
    at = time.monotonic()
    supervised.process.send_signal(number)
    assert supervised.process.wait(PATIENCE_S) == 143
    assert time.monotonic() - at < 20
    assert not runs(supervised.pid(1))


def test_two_signals_within_a_second_are_one(start: Start) -> None:
    supervised = start(LIVE.replace("note", "time.sleep(3); note"))
    wait_for(supervised.diary)
    for _ in range(2):
        supervised.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert supervised.process.wait(PATIENCE_S) == 0
    assert supervised.diary()[-1] == "ended"


def test_ctrl_c_in_a_terminal_reaches_each_process_once(start: Start) -> None:
    supervised = start(LIVE, LIVE)
    wait_for(lambda: supervised.diary(0) and supervised.diary(1))
    os.killpg(supervised.process.pid, signal.SIGINT)
    assert supervised.process.wait(PATIENCE_S) == 0
    for child in range(2):
        assert supervised.diary(child) == ["began", f"asked-{signal.SIGUSR2}", "ended"]


def test_when_the_supervisor_is_killed_its_processes_leave(start: Start) -> None:
    loads = "signal.signal(progress.LEAVE, signal.SIG_DFL); time.sleep(1000)"
    supervised = start(LIVE, LIVE, loads)
    wait_for(lambda: all(supervised.diary(child) for child in range(3)))
    pids = [supervised.pid(child) for child in range(3)]
    supervised.process.kill()
    wait_for(lambda: not any(runs(pid) for pid in pids))
    assert [supervised.diary(child)[-1] for child in range(3)] == ["ended", "ended", "began"]


def test_a_process_without_a_supervisor_that_does_not_leave_kills_itself(start: Start) -> None:
    supervised = start(DEAF, stop_s=1)
    wait_for(supervised.diary)
    pid = supervised.pid()
    supervised.process.kill()
    wait_for(lambda: f"asked-{signal.SIGUSR2}" in supervised.diary())
    wait_for(lambda: not runs(pid))


def test_the_request_of_a_dead_worker_comes_again_within_30_s() -> None:
    assert Pace().worst_s <= 30
