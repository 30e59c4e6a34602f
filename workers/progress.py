"""The line between a worker process and its supervisor: a byte up at each step, and its end means to leave.

Where there is no supervisor, as in most tests, nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress

BUSY, IDLE = b"b", b"i"
"""What goes up the line."""

LEAVE = signal.SIGUSR2
"""Raised in a process whose line ended. Not SIGTERM: systemd may send that to all, and a second one means at once."""

REPEAT_S = 0.5
"""The same word is not said again within so many seconds, so that a step costs next to nothing."""

_line: socket.socket | None = None
_said: tuple[bytes, float] = b"", 0.0


def report_to(descriptor: int, stop_s: float) -> None:
    """Take up the line to the supervisor.

    When it ends, because the supervisor says so or is dead, `LEAVE` is raised in this process.

    Args:
        descriptor: Our end of the line, inherited.
        stop_s: How long this process may take to leave; then it kills itself.
    """
    global _line  # One process, one line.
    _line = socket.socket(fileno=descriptor)
    _line.set_inheritable(False)
    threading.Thread(target=_leave_at_the_end, args=(_line, stop_s), name="line", daemon=True).start()


def busy() -> None:
    """Say that work goes on: call it where a step begins or ends, on the thread that would hang, and on no other."""
    _say(BUSY)


def idle() -> None:
    """Say that there is no work in hand; the first time it says that the process is ready."""
    _say(IDLE)


def _say(word: bytes) -> None:
    global _said
    if _line is None or (word == _said[0] and time.monotonic() - _said[1] < REPEAT_S):
        return
    with suppress(OSError):  # The other thread sees to that.
        _line.send(word)
    _said = word, time.monotonic()


def _leave_at_the_end(line: socket.socket, stop_s: float) -> None:
    with suppress(OSError):
        line.recv(1)
    signal.pthread_kill(threading.main_thread().ident or 0, LEAVE)
    time.sleep(stop_s)
    os.kill(os.getpid(), signal.SIGKILL)
