"""A queue without Redis, behind the same door as `workers.queue.JobQueue`; `test_web_contract.py` keeps it honest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from workers.contract import Answer, PredictJob, Reply
from workers.errors import QueueFull, RedisAway
from workers.queue import Event, Failure, State
from workers.settings import Settings

Worker = Callable[[PredictJob], Reply | None]


class StubQueue:
    """Keeps requests in a list; a test may set `worker` to answer them at once, or `away` to be unreachable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.away = False
        self.worker: Worker = lambda _job: None
        self.waiting: list[PredictJob] = []
        self.answers: list[Answer] = []
        self.events: list[Event] = []
        self._replies: dict[str, Reply] = {}
        self._failures: dict[str, Failure] = {}
        self._versions: list[str] = []
        self._champions: dict[int, str | None] = {}
        self._words: dict[tuple[int, int, str], tuple[str, ...]] = {}
        self._digests: dict[int, str | None] = {}
        self._fingerprints: set[str] = set()
        self._options: dict[int, str | None] = {}

    def ping(self) -> None:
        if self.away:
            raise RedisAway("Redis does not answer")

    def submit(self, jobs: Sequence[PredictJob], *, front: bool = False) -> int:
        self.ping()
        in_flight = self._in_flight()
        new = list({job.key: job for job in jobs if job.key not in in_flight}.values())
        self.check_room(jobs[0].project_id if jobs else 0, len(new))
        self.waiting[:] = new + self.waiting if front else self.waiting + new
        for job in new:
            self._failures.pop(job.key, None)
            if reply := self.worker(job):
                self.waiting.remove(job)
                self._replies[job.key] = reply
                if isinstance(reply, Answer) and not job.interactive:
                    self.deliver(reply)
        return len(new)

    def check_room(self, _project_id: int, count: int) -> None:
        self.ping()
        if count and len(self.waiting) + count > self.settings.queue_limit:
            raise QueueFull("too many wait", 30)

    def deliver(self, answer: Answer) -> None:
        self.ping()
        self.answers.append(answer)

    def settle(self, job: PredictJob) -> None:
        self.ping()
        self.waiting[:] = [waiting for waiting in self.waiting if waiting.key != job.key]
        self.answers[:] = [answer for answer in self.answers if answer.job.key != job.key]

    def counts(self) -> dict[str, int]:
        self.ping()
        return {
            "waiting": len(self.waiting),
            "running": 0,
            "to_deliver": len(self.answers),
            "failed": len(self._failures),
        }

    def wait_until_settled(self, _project_id: int, keys: Sequence[str], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            self.ping()
            if not self._in_flight() & set(keys):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

    def states(self, _project_id: int, keys: Sequence[str]) -> list[State]:
        self.ping()
        in_flight = self._in_flight()
        return ["in flight" if key in in_flight else "failed" if key in self._failures else "delivered" for key in keys]

    def _in_flight(self) -> set[str]:
        return {job.key for job in self.waiting} | {answer.job.key for answer in self.answers}

    def wait_for_reply(self, job: PredictJob, timeout_s: float) -> Reply | None:
        deadline = time.monotonic() + timeout_s
        while job.key not in self._replies and time.monotonic() < deadline:
            self.ping()
            time.sleep(0.01)
        self.waiting[:] = [waiting for waiting in self.waiting if waiting.key != job.key]
        return self._replies.get(job.key)

    def record_failure(self, failure: Failure) -> None:
        self.ping()
        self._failures[failure.key] = failure
        self.waiting[:] = [job for job in self.waiting if job.key != failure.key]

    def failures(self, project_id: int | None = None) -> list[Failure]:
        self.ping()
        return [failure for failure in self._failures.values() if project_id in (None, failure.project_id)]

    def clear_failures(self, keys: Sequence[str]) -> None:
        self.ping()
        for key in keys:
            self._failures.pop(key, None)

    def keep_options(self, project_id: int, options: str | None) -> None:
        self.ping()
        self._options[project_id] = options

    def options(self, project_id: int) -> str | None:
        self.ping()
        return self._options.get(project_id)

    def remember_words(self, project_id: int, task_id: int, to_name: str, expressions: Sequence[str]) -> None:
        self.ping()
        self._words[project_id, task_id, to_name] = tuple(expressions)

    def words(self, project_id: int, task_id: int, to_name: str) -> tuple[str, ...]:
        self.ping()
        return self._words.get((project_id, task_id, to_name), ())

    def announce(self, model_version: str, *, again: bool = False) -> None:
        self.ping()
        if not (again and model_version in self._versions):
            self._versions[:] = [model_version, *(known for known in self._versions if known != model_version)]

    def keep_champion(self, project_id: int, version: str | None) -> None:
        self.ping()
        self._champions[project_id] = version

    def model_version(self, project_id: int | None = None) -> str | None:
        return next(iter(self.model_versions(project_id)), None)

    def model_versions(self, project_id: int | None = None) -> list[str]:
        self.ping()
        champion = None if project_id is None else self._champions.get(project_id)
        return [*([champion] if champion else []), *self._versions]

    def keep_event(self, event: Event, fingerprint: str = "") -> bool:
        self.ping()
        if fingerprint and fingerprint in self._fingerprints:
            return False
        self._fingerprints.add(fingerprint)
        self.events.append(event)
        return True

    def keep_webhook_digest(self, project_id: int, digest: str | None) -> None:
        self.ping()
        self._digests[project_id] = digest

    def webhook_digest(self, project_id: int) -> str | None:
        self.ping()
        return self._digests.get(project_id)
