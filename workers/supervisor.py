"""One process for each GPU: started together, killed when hung, started again when dead, ended together; no torch."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from workers.progress import BUSY, IDLE

log = logging.getLogger(__name__)

LINE = "--line"
"""The option that tells a process the descriptor of its line to us."""

FIRST_PAUSE_S = 1.0
"""Pause before a process that died is started again; it doubles with each death, until a job ended in between."""

LONGEST_PAUSE_S = 60.0
"""The pause grows no further than that, and a process that was ready for so long begins anew."""

TRIES = 5
"""A process that dies so often in a row without ever taking a job is given up."""

REASON = "It died again and again before it took a job: the lines above say of what. Mend that, and start again."
"""What an operator reads of a process that was given up."""

LOOK_S = 0.2
"""How often the processes are looked at."""

LONGEST_LOOK_S = 1.0
"""A look counts as no longer silence: where we slept, as in a paused container, the processes slept too."""

SECOND_S = 1.0
"""A signal so much later than the first is a second one; RQ counts in the same way."""

AT_ONCE_S = 2.0
"""How long a process may take to leave at once."""

GONE_S = 5.0
"""How long the kernel may take to bury a process; one that a driver holds never ends."""

GIVEN_UP = 69
"""Exit code when no process was left that could run."""

LEFT_AT_ONCE = 128 + signal.SIGTERM
"""Exit code after a second signal."""


class Child:
    """One command that is kept running.

    Args:
        command: What to run; the option `--line` is added.
        hung_s: How long it may be silent while it is busy.
    """

    def __init__(self, command: Sequence[str], hung_s: float) -> None:
        self.command = command
        self.given_up = False
        self.hopeless = False
        self._hung_s = hung_s
        self._ever_ready = False
        self._pause_s = FIRST_PAUSE_S
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            self.process = subprocess.Popen(
                [*self.command, LINE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for us; we pass it on, once.
            )
        self._again_at: float | None = None
        self._ready_at: float | None = None
        self._word = b""
        self._took_jobs = self._ended_jobs = self._killed = False
        self._silent_s = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    def tend(self, passed_s: float, hopeless: int) -> None:
        """Hear it, kill it if it hangs, start it again if it is dead and its pause is over.

        Args:
            passed_s: Since the last look.
            hopeless: The exit code of one that would end in the same way again.
        """
        if self._again_at is None:
            alive = self.alive  # Asked first: what it said before it died is heard.
            self._hear(passed_s)
            if alive:
                self._kill_if_hung()
            else:
                self._bury(hopeless)
        elif time.monotonic() >= self._again_at and not self.given_up:
            self._start()

    def ask_to_leave(self) -> None:
        """End the line: it finishes what it has in hand, and leaves."""
        self._line.close()

    def _hear(self, passed_s: float) -> None:
        self._silent_s += passed_s
        with suppress(BlockingIOError, ConnectionError):
            while words := self._line.recv(4096):
                self._silent_s = 0.0
                self._ready_at = self._ready_at or time.monotonic()
                self._ever_ready = True
                heard = self._word + words
                self._took_jobs |= BUSY in heard
                self._ended_jobs |= BUSY + IDLE in heard
                self._word = words[-1:]

    def _kill_if_hung(self) -> None:
        if self._silent_s <= self._hung_s or self._killed:
            return
        if self._word == BUSY:
            log.error("worker hangs, so it is killed", extra={"silent_s": self._hung_s, "command": self.command})
            self.process.kill()
            self._killed = True
        elif self._ready_at is None:
            log.warning("worker still loads", extra={"command": self.command})
            self._silent_s = 0.0

    def _bury(self, hopeless: int) -> None:
        self._line.close()
        from workers import exposition  # It takes a while to import, and workers seldom die.

        exposition.forget(self.process.pid, self.process.returncode)
        code, at = self.process.returncode, time.monotonic()
        lived = self._ready_at is not None and at - self._ready_at > LONGEST_PAUSE_S
        if lived or self._ended_jobs:
            self._pause_s = FIRST_PAUSE_S
        self._deaths = 0 if lived or self._took_jobs else self._deaths + 1
        self.hopeless = code == hopeless and not self._ever_ready
        self._again_at = at + self._pause_s
        facts = {"exit_code": code, "command": self.command}
        if self._deaths == TRIES:
            self.given_up = True
            log.critical("worker given up", extra=facts | {"deaths": TRIES, "move": "ours", "reason": REASON})
        else:
            log.error("worker died", extra=facts | {"again_in_s": self._pause_s})
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def supervise(commands: Sequence[Sequence[str]], hung_s: float, stop_s: float, hopeless: int) -> int:
    """Keep commands running until SIGTERM or SIGINT, then let each end what it has in hand.

    Args:
        commands: What to run.
        hung_s: How long one may be silent while it is busy.
        stop_s: How long they may take to leave; then they are killed.
        hopeless: The exit code of one that would end in the same way again; if it was never ready, it ends them all.

    Returns:
        That code if one gave it, `GIVEN_UP` if all were given up, `LEFT_AT_ONCE` after a second signal, else 0.
    """
    asked: list[float] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signum, _frame: asked.append(time.monotonic()))
    children = [Child(command, hung_s) for command in commands]
    code, looked_at = 0, time.monotonic()
    while not asked and not code:
        time.sleep(LOOK_S)
        at = time.monotonic()
        for child in children:
            child.tend(min(at - looked_at, LONGEST_LOOK_S), hopeless)
        looked_at = at
        if any(child.hopeless for child in children):
            code = hopeless
        elif all(child.given_up for child in children):
            code = GIVEN_UP
    ended = _end(children, stop_s, asked)
    return code or ended


def _end(children: Sequence[Child], stop_s: float, asked: list[float]) -> int:
    for child in children:
        child.ask_to_leave()
    deadline = time.monotonic() + stop_s
    code, killed = 0, False
    while alive := [child for child in children if child.alive]:
        at = time.monotonic()
        if not code and asked and asked[-1] - asked[0] >= SECOND_S:
            code = LEFT_AT_ONCE
            deadline = min(deadline, at + AT_ONCE_S)
            for child in alive:
                child.process.terminate()
        if at >= deadline and not killed:
            killed = True
            log.error("workers did not leave in time, so they are killed", extra={"workers": len(alive)})
            for child in alive:
                child.process.kill()
        if at >= deadline + GONE_S:
            log.critical("workers cannot be killed: their driver holds them", extra={"workers": len(alive)})
            break
        time.sleep(LOOK_S / 4)
    return code
