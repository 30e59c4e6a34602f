"""The project's processes on this machine: started by their commands, kept running, killed, and ended by their pids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
from rq import Queue, SimpleWorker

from tests.with_redis.conftest import wait_for
from workers.ports import free_port
from workers.queue import JobQueue, connect
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings

ROOT = Path(__file__).parents[1]
START_S = 180.0
"""Longest that processes take to start on a machine that has other things to do."""

WORKER = (sys.executable, "-m", "workers.cli", "run")
COURIER = (sys.executable, "-m", "ml_backend.cli", "courier")
WEB = (sys.executable, "-m", "ml_backend.cli", "web")
PRELABEL = (sys.executable, "-m", "ml_backend.cli", "prelabel", "--project", "1", "--json")


@dataclass
class Member:
    """A command that is kept running."""

    command: Sequence[str]
    environ: dict[str, str]
    log: Path
    died_at: float | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.died_at = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environ, cwd=ROOT, stdout=log, stderr=log)

    def tend(self, pause_s: float) -> None:
        """Start it again a while after it died."""
        if self.process.poll() is None:
            return
        self.died_at = self.died_at or time.monotonic()
        if time.monotonic() - self.died_at >= pause_s:
            self.start()

    def stop(self) -> None:
        # With its children: those of a supervisor that is killed would first end what they have in hand.
        for pid in [*self.children(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def children(self) -> list[int]:
        """The processes that it started itself."""
        with suppress(OSError):
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        return []


class Fleet:
    """One Redis, and whatever of ours is started on it."""

    def __init__(self, directory: Path, redis: EmbeddedRedis, label_studio_url: str, key: str, **settings: str) -> None:
        port = free_port()
        ours = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": key,
            "RSREFSEG_DATA": str(directory),
            "RSREFSEG_PORT": str(port),
            **settings,
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_"))}
        self.environ = others | {"OMP_NUM_THREADS": "1"} | ours
        self.web_url = f"http://127.0.0.1:{port}"
        self.directory = directory
        self.redis = redis
        self.queue = JobQueue(connect(redis.url), Settings.load(ours))
        self.members: list[Member] = []

    @classmethod
    @contextmanager
    def gather(cls, directory: Path, label_studio_url: str, key: str, **settings: str) -> Iterator[Self]:
        """Start a Redis; whatever is started on it ends with it."""
        fleet = cls(directory, EmbeddedRedis.start(directory / "redis"), label_studio_url, key, **settings)
        try:
            yield fleet
        finally:
            fleet.dismiss()
            fleet.queue.redis.close()
            fleet.redis.stop()

    def start(self, *command: str) -> Member:
        """Run a command, and again whenever `tend` finds it dead."""
        self.members.append(Member(command, self.environ, self.directory / f"{len(self.members)}.log"))
        return self.members[-1]

    def tend(self, pause_s: float = 1.0) -> None:
        """Start again who died at least so long ago."""
        for member in self.members:
            member.tend(pause_s)

    def dismiss(self) -> None:
        """Kill all that were started; what they had in hand stays in Redis."""
        for member in self.members:
            member.stop()
        self.members.clear()

    def run(self, *command: str) -> dict[str, Any]:
        """Wait for a command that ends and prints one JSON object last."""
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    def pids(self, queue: Queue) -> list[int]:
        """Processes that take jobs from a queue and are ours, by what they call themselves."""
        names = [worker.name for worker in SimpleWorker.all(queue=queue, serializer="json")]
        return sorted(pid for name in names if self._is_ours(pid := int(name.rsplit("-", 2)[1])))

    def wait_for(self, queue: Queue, processes: int) -> None:
        """Until so many take jobs from a queue."""
        wait_for(lambda: self.tend() or len(self.pids(queue)) >= processes, START_S)

    def wait_for_web(self) -> None:
        """Until the web process answers."""

        def is_up() -> bool:
            with suppress(httpx.TransportError):
                # With a password it answers 401, which is an answer.
                return not httpx.get(f"{self.web_url}/health", timeout=5, trust_env=False).is_server_error
            return False

        wait_for(is_up, START_S)

    def restart_redis(self, pause_s: float) -> None:
        """Stop Redis, and start it again on what it wrote."""
        url = self.redis.url
        self.redis.stop()
        time.sleep(pause_s)
        self.redis = EmbeddedRedis.start(self.redis.directory)
        if self.redis.url != url:
            raise RuntimeError("somebody else took the port of Redis meanwhile")

    def _is_ours(self, pid: int) -> bool:
        return any(pid in (member.process.pid, *member.children()) for member in self.members)
