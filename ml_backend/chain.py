"""What every project needs: Redis, workers with a model, a courier, a web process, Label Studio and our key to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from ml_backend.errors import BackendError, LabelStudioAway
from ml_backend.findings import Finding, looked
from ml_backend.label_studio import LabelStudio
from ml_backend.web_probe import WebProbe
from ml_backend.wiring import Wiring
from workers.queue import GPU, INTERACTIVE, LABEL_STUDIO, JobQueue
from workers.settings import Settings
from workers.status import Status, WorkerState, status_of

TESTED = "1.23.2"
"""The Label Studio that the tests run against."""

CALL_S = 15.0
"""Longest that one call to Label Studio may take."""

FIX_CALL_S = 60.0
"""The same for a call that changes something; Label Studio then calls the web process four times."""

SILENT_S = 45
"""After how many seconds without a sign a process counts as dead; one that lives gives a sign every five."""


def alive(status: Status, *queues: str) -> list[WorkerState]:
    """Say which processes take jobs.

    Args:
        status: Who was there, and when they were heard.
        *queues: From any of these queues.

    Returns:
        Those that gave a sign not long ago.
    """
    now = datetime.now(UTC)
    return [
        worker
        for worker in status.workers
        if set(queues) & set(worker.queues) and worker.heard_at and (now - worker.heard_at).total_seconds() < SILENT_S
    ]


class Chain:
    """Looks at one link after the other; what was reached stays open for those who look further.

    Args:
        settings: Where everything is.
        stack: Closes what was opened.
    """

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self.queue: JobQueue | None = None
        """Redis, once it answered."""
        self.wiring: Wiring | None = None
        """Label Studio, once it accepted our key."""
        self._stack = stack
        self._status: Status | None = None

    def findings(self) -> Iterator[Finding]:
        """Look at all but the web process.

        Yields:
            What was found.
        """
        yield Finding("settings", "right", "All variables are known and their values will do.")
        yield from looked("redis", self._redis)
        if self.queue is None:
            unseen = "Not looked at, since Redis is away."
            yield from (Finding(check, "unknown", unseen) for check in ("workers", "model", "courier"))
        else:
            yield from looked("workers", self._workers)
            yield from looked("model", self._model)
            yield from looked("courier", self._courier)
            yield from looked("requests", self._requests)
        yield from looked("label studio", self._label_studio)

    def web(self, url: str) -> Iterator[Finding]:
        """Look at the web process.

        Args:
            url: Where it should be.

        Yields:
            What was found.
        """
        yield from looked("web", lambda: self.asked(url))

    def asked(self, url: str) -> Iterator[Finding]:
        """Ask the web process, and raise if it does not answer.

        Args:
            url: Where it should be.

        Yields:
            What was found.
        """
        health = WebProbe(url, self.settings).health()
        served = self.queue.model_version() if self.queue else None
        if not health.ours:
            yield Finding("web", "right", f"The official server answers at {url}, with our model inside.")
        elif self.queue and health.model_version != served:
            said = f"The process at {url} has another Redis: it serves {health.model_version}, this one {served}."
            yield Finding("web", "wrong", said, "Give both the same REDIS_URL, or the same RSREFSEG_DATA.")
        else:
            yield Finding("web", "right", f"{url} takes requests.")

    def _redis(self) -> Iterator[Finding]:
        queue = self._stack.enter_context(JobQueue.open(self.settings))
        queue.ping()
        where = _place(str(self.settings.redis_url)) if self.settings.redis_url else "The embedded Redis"
        where += "" if self.settings.redis_url else f" under {self.settings.data / 'redis'}"
        info: dict[str, Any] = queue.redis.info()
        self.queue = queue
        policy = info.get("maxmemory_policy", "noeviction")
        faults = []
        if not info.get("aof_enabled"):
            faults.append("keeps jobs in memory alone: set `appendonly yes`, lest a restart loses them")
        if policy != "noeviction" and info.get("maxmemory"):
            faults.append(f"throws away jobs when it is full: set `maxmemory-policy noeviction` (it is {policy})")
        if info.get("aof_last_write_status", "ok") != "ok":
            faults.append("cannot write its append-only file: look whether its disk is full")
        if faults:
            yield Finding(
                "redis", "wrong", f"{where} answers, but", "; it ".join(["it " + faults[0], *faults[1:]]) + "."
            )
        else:
            kept = f"Redis {info.get('redis_version')}, append-only, {policy}"
            yield Finding("redis", "right", f"{where} answers ({kept}).")

    def _look(self) -> tuple[JobQueue, Status]:
        assert self.queue is not None
        if self._status is None:
            self._status = status_of(self.queue, failures=0)
        return self.queue, self._status

    def _alive(self, *queues: str) -> list[WorkerState]:
        _, status = self._look()
        return alive(status, *queues)

    def _workers(self) -> Iterator[Finding]:
        workers = self._alive(GPU)
        if workers:
            devices = ", ".join(sorted(worker.device or "?" for worker in workers))
            busy = sum(worker.state == "busy" for worker in workers)
            yield Finding("workers", "right", f"{len(workers)} alive on {devices}, {busy} of them busy.")
        elif self._alive(INTERACTIVE):
            move = "start one more `rsrefseg-worker run` without --queue."
            yield Finding("workers", "wrong", "Those that live serve the editor alone:", move)
        else:
            yield Finding("workers", "wrong", "None is alive, so nothing is drawn:", "start `rsrefseg-worker run`.")

    def _model(self) -> Iterator[Finding]:
        queue, _ = self._look()
        version = queue.model_version()
        if version is None:
            move = "start `rsrefseg-worker run`, and look into its log if it does not stay."
            yield Finding("model", "wrong", "No worker ever loaded one:", move)
        elif not self._alive(GPU, INTERACTIVE):
            yield Finding("model", "unknown", f"{version} was served last; it is loaded when a worker starts.")
        else:
            yield Finding("model", "right", f"{version} is loaded and served.")

    def _courier(self) -> Iterator[Finding]:
        couriers = self._alive(LABEL_STUDIO)
        if couriers:
            yield Finding("courier", "right", f"{len(couriers)} alive.")
        else:
            move = "start `rsrefseg-backend courier`."
            yield Finding("courier", "wrong", "None is alive, so masks do not reach Label Studio:", move)

    def _requests(self) -> Iterator[Finding]:
        _, status = self._look()
        said = f"{status.waiting} wait, {status.running} run, {status.to_deliver} wait for delivery"
        if status.failed:
            move = "`rsrefseg-worker status` lists the reasons."
            yield Finding("requests", "note", f"{said}, {status.failed} have failed:", move)
        else:
            yield Finding("requests", "right", f"{said}, none has failed.")

    def _label_studio(self) -> Iterator[Finding]:
        url = self.settings.label_studio_url
        version = _release(url)
        if version == TESTED:
            yield Finding("label studio", "right", f"Version {version} answers at {url}.")
        else:
            said = f"Version {version} answers at {url}; ours is tested against {TESTED}."
            yield Finding("label studio", "note", said, "Where something is odd, try that one.")
        yield from self._key()

    def _key(self) -> Iterator[Finding]:
        key = self.settings.label_studio_api_key.get_secret_value()
        kind = "personal access token" if key.count(".") == 2 else "legacy token"
        try:
            label_studio = LabelStudio.of(self.settings, CALL_S)
            self._stack.callback(label_studio.close)
            user = label_studio.check_key()
        except LabelStudioAway:
            raise
        except BackendError as exc:
            move = ""
            if key and kind == "legacy token":
                move = (
                    "Legacy tokens are off in new organisations: take a personal access token, or switch them on under "
                    "Organization, Access Token Settings."
                )
            yield Finding("key", "wrong", str(exc), move)
            return
        self.wiring = Wiring(label_studio)
        yield Finding("key", "right", f"LABEL_STUDIO_API_KEY is a {kind} of {user}.")


def _place(url: str) -> str:
    # Without the password.
    address = urlsplit(url)
    return f"Redis at {address.hostname}:{address.port or 6379}{address.path}"


def _release(url: str) -> str:
    # Without our key, so that a wrong key is not taken for a wrong address.
    try:
        answer = httpx.get(f"{url}/api/version", timeout=CALL_S, follow_redirects=True)
        said = answer.json()
        return str(said["release"])
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise LabelStudioAway(
            f"Label Studio cannot be reached at {url}: start it, or set LABEL_STUDIO_URL to where it is."
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise LabelStudioAway(f"What answers at {url} is not Label Studio: set LABEL_STUDIO_URL.") from exc
