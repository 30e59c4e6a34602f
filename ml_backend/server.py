"""gunicorn, started from Python: one process with many threads, no torch."""

from __future__ import annotations

import socket
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from ml_backend.errors import StartFailed
from ml_backend.web import create_app
from workers import logs, traces
from workers.queue import JobQueue
from workers.settings import Settings

BACKLOG = 512
"""How many connections may wait to be accepted."""


class PoliteWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Lets those who wait get their answer on Ctrl-C too.

    gunicorn's quick end takes a lock in its signal handler that the interrupted code may hold, and then never ends.
    """

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End as on SIGTERM.

        Args:
            sig: SIGINT or SIGQUIT.
            frame: Where the process was.
        """
        self.handle_exit(sig, frame)


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Serves the web application on a socket that listens already."""

    def __init__(self, settings: Settings, queue: JobQueue, listener: int) -> None:
        self._settings = settings
        self._queue = queue
        self._listener = listener
        super().__init__()

    def load_config(self) -> None:
        """Say how gunicorn runs."""
        logging = logs.as_dict(self._settings.log_level)
        logging["loggers"]["gunicorn.access"]["level"] = "WARNING"  # Label Studio asks on every page; ours say more.
        options: dict[str, Any] = {
            "bind": f"fd://{self._listener}",
            "worker_class": PoliteWorker,
            "workers": 1,
            "threads": self._settings.web_threads,
            "timeout": 120,
            # A person who waits in the editor gets the answer even if the process is asked to end.
            "graceful_timeout": int(self._settings.interactive_wait_s) + 5,
            "logconfig_dict": logging,
            "control_socket_disable": True,
            "proc_name": "rsrefseg-backend",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Build the application, in the process that serves it.

        Returns:
            The application.
        """
        traces.start(self._settings, "rsrefseg-web")
        return create_app(self._settings, self._queue, self._queue.redis.connection_pool)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: Where to listen, and where Redis is.
    """
    listener = listen(settings.host, settings.port)
    with JobQueue.open(settings) as queue:
        queue.ping()
        Server(settings, queue, listener).run()


def listen(host: str, port: int) -> int:
    """Take the port ourselves, since gunicorn tries for five seconds and then only logs that it failed.

    Args:
        host: The address.
        port: The port.

    Returns:
        Descriptor of the listening socket, for gunicorn to keep.

    Raises:
        StartFailed: If the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG).detach()
    except OSError as exc:
        raise StartFailed(
            f"Cannot listen on {host}:{port} ({exc.strerror or exc}): choose another with RSREFSEG_PORT or --port."
        ) from exc
