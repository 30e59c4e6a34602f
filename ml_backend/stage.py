"""Everything on this machine, each as a user would start it by hand: Label Studio, Redis, web, courier and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
from rich.console import Console

from ml_backend.errors import StartFailed
from ml_backend.label_studio_server import LabelStudioServer
from workers.ports import free_port
from workers.queue import JobQueue
from workers.settings import Settings

START_LIMIT_S = 120


@dataclass
class Processes:
    """The commands that the demo runs, each as a user would by hand."""

    environment: dict[str, str]
    logs: Path
    console: Console
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a command of this installation.

        Args:
            name: How messages call it; its log is `<name>.log`.
            *command: The program and its arguments.
        """
        self.commands[name] = list(command)
        program = Path(sysconfig.get_path("scripts")) / command[0]
        with (self.logs / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [str(program), *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops these in order
            )

    def mend(self) -> None:
        """Start again what has died, and say so."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.console.print(f"[yellow]{name} ended with code {process.returncode}; starting it again")
                time.sleep(1)
                self.start(name, *self.commands[name])

    def require(self) -> None:
        """Give up while starting, where a second try would end the same way.

        Raises:
            StartFailed: If a command has ended.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                raise StartFailed(f"{name} ended with code {process.returncode}; its log is {self.logs / name}.log")

    def stop(self) -> None:
        """Ask all to leave, then insist."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Stage:
    """All that runs for a demo."""

    server: LabelStudioServer
    queue: JobQueue
    processes: Processes
    url: str
    """Of the web process."""

    @classmethod
    @contextmanager
    def set_up(
        cls,
        settings: Settings,
        home: Path,
        label_studio: Path,
        served: Path,
        console: Console,
        *,
        trains: Mapping[str, str] | None = None,
    ) -> Iterator[Self]:
        """Start everything, and stop it afterwards.

        Args:
            settings: Those of the user.
            home: Where all of it keeps its data.
            label_studio: The `label-studio` command of its own environment.
            served: Below it lie the images.
            console: Where progress is told.
            trains: Settings of trainings, where a worker for them is wanted too.

        Yields:
            What runs.
        """
        home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with console.status("starting Label Studio (the first time takes half a minute)"):
                server = LabelStudioServer.start(label_studio, home / "label-studio", served)
                stack.callback(server.stop)
            port = free_port()
            names = {
                "LABEL_STUDIO_URL": server.url,
                "LABEL_STUDIO_API_KEY": server.token,
                "RSREFSEG_DATA": str(home),
                "RSREFSEG_PORT": str(port),
                # On loopback, among processes of its own, it needs no login.
                "RSREFSEG_BASIC_USER": "",
                "RSREFSEG_BASIC_PASSWORD": "",
            }
            names |= trains or {}
            if settings.redis_url:
                names["REDIS_URL"] = str(settings.redis_url)
            queue = stack.enter_context(JobQueue.open(Settings.load(os.environ | names)))
            processes = Processes(os.environ | names, home, console)
            stack.callback(processes.stop)
            with console.status("starting web, courier and workers"):
                processes.start("worker", "rsrefseg-worker", "run", "--gpus", "cpu")
                if trains is not None:
                    processes.start("trainer", "rsrefseg-worker", "run", "--gpus", "cpu", "--queue", "train")
                processes.start("courier", "rsrefseg-backend", "courier")
                processes.start("web", "rsrefseg-backend", "web")
                url = f"http://127.0.0.1:{port}"
                _wait_until_up(processes, url)
            yield cls(server, queue, processes, url)

    def stay(self) -> None:
        """Keep everything running for as long as Label Studio runs, or until Ctrl-C."""
        while self.server.process.poll() is None:
            self.processes.mend()
            time.sleep(1)


def end_on_sigterm() -> None:
    """Take SIGTERM for Ctrl-C, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _wait_until_up(processes: Processes, url: str) -> None:
    # Until the web process answers and a worker has announced its model.
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        processes.require()
        try:
            if httpx.get(f"{url}/health", timeout=2).json().get("model_version"):
                return
        except (httpx.TransportError, ValueError):
            pass
        time.sleep(0.2)
    raise StartFailed(f"web and worker were not ready within {START_LIMIT_S} s; their logs are in {processes.logs}")
