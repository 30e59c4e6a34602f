"""Where a training keeps what it needs to go on: a folder that one take of its job has at a time.

    runs/PROJECT/NUMBER/taken       there is one such folder, and its number is that of the take which has the training
    runs/PROJECT/NUMBER/run.json    what the training settled on, and how it ended
    runs/PROJECT/NUMBER/...         features, weights and answers, until the end
    runs/PROJECT.lock               held for the moment of taking

A later take renames the folder to its own number. So one that was stopped for so long that its job was given to another
finds its folder gone, whenever it wakes, and leaves; and it never takes over what a later one has.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import AwareDatetime, ValidationError
from redis import Redis
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.job import Job
from rq.utils import as_text

from workers.contract import Training, Wire
from workers.errors import Superseded
from workers.redis_client import renaming_redis_errors

FOLDER = "runs"
"""Below the data directory."""

TAKEN, RUN = "taken", "run.json"

LOCK_S = 5.0
"""Longest that a take waits for another that is about to take, in seconds: that one may be stopped, and never go on."""

_NUMBER = """
-- KEYS: RQ's jobs that are at work; ARGV: the runs of our job by its worker, as RQ calls them
for _, run in ipairs(ARGV) do
  if redis.call('ZSCORE', KEYS[1], run) then
    local time = redis.call('TIME')
    return time[1] .. string.format('%06d', time[2])
  end
end
return nil
"""


class Run(Wire):
    """What a training has settled on, so that the next take of the same job goes on with it."""

    asked_at: str
    """When the job was made: another job begins anew."""
    began_at: AwareDatetime
    base: str
    champion: str | None
    """At the beginning; None for the base."""
    snapshot: str
    ended: Training | None = None
    """The last word, for a take that comes after it."""


@renaming_redis_errors()
def number_of(redis: Redis, job: Job) -> int:
    """Number a take of a job, such that those that RQ allows later have higher numbers.

    Args:
        redis: Where the job is.
        job: The job, in the hands of its worker.

    Returns:
        The number: the time of Redis, in microseconds since 1970.

    Raises:
        Superseded: If RQ has given the job to another meanwhile.
    """
    # Not `job.get_executions`, which breaks over the half of a record that a dead worker's last heartbeat left.
    at_work = redis.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(job.worker_name))
    runs = [run for run in map(as_text, at_work) if run.startswith(f"{job.id}:")]
    number = redis.eval(_NUMBER, 1, job.started_job_registry.key, *runs)
    if number is None:
        raise Superseded
    return int(number)


class RunFolder:
    """The folder of a project's training.

    Args:
        data: The data directory.
        project_id: The project.
        number: Of the take, from `number_of`.
    """

    def __init__(self, data: Path, project_id: int, number: int) -> None:
        self._home = data / FOLDER / str(project_id)
        self.path = self._home / str(number)

    def take(self, asked_at: str) -> Run | None:
        """Take over what an earlier take of the same job left, and remove what others left.

        Args:
            asked_at: When the job was made.

        Returns:
            What it settled on; None where this take begins anew.

        Raises:
            Superseded: If a later take is there.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with self._alone():
            while not self.held():
                former = max(self._taken(), key=_number, default=None)
                if former is None:
                    self._appear()
                elif _number(former) > _number(self.path):
                    raise Superseded
                else:
                    with suppress(FileNotFoundError):  # One that was stopped too long was faster.
                        former.rename(self.path)
            for other in self._home.iterdir():
                if other != self.path and _number(other) < _number(self.path):
                    shutil.rmtree(other, ignore_errors=True)
        run = self.run()
        if run is not None and run.asked_at == asked_at:
            return run
        self.clear()
        return None

    def held(self) -> bool:
        """Say whether no later take has the training.

        Returns:
            Whether it is ours.
        """
        return (self.path / TAKEN).is_file()

    def run(self) -> Run | None:
        """Read what this training settled on.

        Returns:
            That; None before.
        """
        with suppress(OSError, ValidationError):
            return Run.model_validate_json((self.path / RUN).read_text("utf-8"))
        return None

    def keep(self, run: Run) -> None:
        """Remember what this training settled on.

        Args:
            run: That.

        Raises:
            Superseded: If a later take has the training.
        """
        partial = self.path / f".{RUN}"
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(run.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path / RUN)
        except FileNotFoundError as exc:
            raise Superseded from exc

    def clear(self, *, but_run: bool = False) -> None:
        """Remove what is in the folder.

        Args:
            but_run: Leave what the training settled on.
        """
        stays = {TAKEN, RUN} if but_run else {TAKEN}
        with suppress(FileNotFoundError):
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in stays:
                    path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove what was written after a later take had taken the folder: under our own number, where none looks."""
        if not self.held():
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # Nobody else takes meanwhile: a folder that is renamed while others are listed may be missing under both names.
        with self._home.with_name(f"{self._home.name}.lock").open("w") as file:
            until = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if time.monotonic() < until:
                        time.sleep(0.01)
                        continue
                break
            yield

    def _taken(self) -> Iterator[Path]:
        return (path.parent for path in self._home.glob(f"[0-9]*/{TAKEN}"))

    def _appear(self) -> None:
        partial = self._home / f".{self.path.name}.{secrets.token_hex(4)}"
        partial.mkdir()
        (partial / TAKEN).touch()
        partial.rename(self.path)


def _number(folder: Path) -> int:
    # What is no take at all is older than all.
    return int(folder.name) if folder.name.isdecimal() else 0
