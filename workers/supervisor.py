"""One process for each GPU: started together, started again when one dies, ended together."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
"""Pause before a process that died is started again; it doubles with each death."""

LONGEST_PAUSE_S = 60.0
"""The pause grows no further than that, and a process that lived so long begins anew."""

LOOK_S = 0.2
"""How often the processes are looked at."""


class Child:
    """One command that is kept running.

    Args:
        command: What to run.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self._pause_s = FIRST_PAUSE_S
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self._next: float | None = None
        self.process = subprocess.Popen(self.command)

    def tend(self) -> None:
        """Start it again if it is dead and its pause is over."""
        if self.process.poll() is None:
            return
        at = time.monotonic()
        if self._next is None:
            if at - self._began > LONGEST_PAUSE_S:
                self._pause_s = FIRST_PAUSE_S
            self._next = at + self._pause_s
            code = self.process.returncode
            log.error("worker died", extra={"exit_code": code, "again_in_s": self._pause_s, "command": self.command})
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        elif at >= self._next:
            self._start()


def supervise(commands: Sequence[Sequence[str]], hopeless: int) -> int:
    """Keep commands running until SIGTERM or SIGINT, then let each end its job.

    Args:
        commands: What to run.
        hopeless: The exit code of one that would end in the same way again; it ends them all.

    Returns:
        That code if one gave it, else 0.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signum, _frame: stop.set())
    children = [Child(command) for command in commands]
    while not stop.wait(LOOK_S) and hopeless not in [child.process.poll() for child in children]:
        for child in children:
            child.tend()
    for child in children:
        child.process.terminate()
    return hopeless if hopeless in [child.process.wait() for child in children] else 0
