"""Trainers whose course is as short as a small model needs.

With a number of steps as its argument the process is one itself. Without, it forks them, so that torch is imported once
for all: it reads a line of JSON for each thing to be done, and answers with another:

    {"start": {NAME: VALUE, ...}, "log": PATH, "steps": STEPS, "die": "before MODULE:NAME TIMES"}     PID
    {"wait": PID, "seconds": SECONDS}                                                  exit code, or null

Where it says so, a trainer kills itself before or after the so manieth call of a function.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import time
from typing import Any

import torch

from rsrefseg.lessons import Mixture
from rsrefseg.teaching import Course
from workers import logs, retrain
from workers.leased import Pace
from workers.queue import JobQueue
from workers.settings import Settings
from workers.worker import serve_training


def train(steps: int) -> None:
    """Take trainings until SIGTERM.

    Args:
        steps: How long each is.
    """
    course = Course(
        least_steps=steps,
        most_steps=steps,
        learning_rate=3e-3,
        text_rate=1.0,
        ema_decay=0.8,
        blend=1.0,
        mixture=Mixture(corrected=4, anchors=1, anchor=0.0),
    )
    settings = Settings.load()
    logs.configure(settings.log_level)
    with JobQueue.open(settings) as queue:
        serve_training(queue, Pace(beat_s=1, grace_s=2, round_s=1), course=course)


def kill_at(place: str) -> None:
    """Have a function kill the process.

    Args:
        place: When, which function, and at which of its calls.
    """
    when, where, times = place.split()
    module, _, name = where.partition(":")
    *owners, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    function = getattr(owner, last)
    calls = 0

    @functools.wraps(function)
    def deadly(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == int(times):
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **named)
        if when == "after" and calls == int(times):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, deadly)


def start(environ: dict[str, str], log: str, steps: int, die: str) -> int:
    """Fork a trainer.

    Args:
        environ: Its settings.
        log: Where its log is continued.
        steps: How long its trainings are.
        die: Where it kills itself; nowhere if empty.

    Returns:
        Its process.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        os.environ.update(environ)
        if die:
            kill_at(die)
        train(steps)
        code = 0
    finally:
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """Wait for the end of a trainer.

    Args:
        pid: Its process.
        seconds: How long.

    Returns:
        Its exit code, negative for a signal; None if it runs still.
    """
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


if __name__ == "__main__":
    assert retrain  # What RQ would import with the first job.
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        train(int(sys.argv[1]))
        sys.exit()
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            said = start(asked["start"], asked["log"], asked["steps"], asked["die"])
        else:
            said = wait(asked["wait"], asked["seconds"])
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
