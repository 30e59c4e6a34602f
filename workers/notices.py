"""What the rooms tell each other beside requests: versions that are served, events, options of projects."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import AwareDatetime
from redis import Redis
from rq.utils import as_text

from workers.contract import Training, Wire
from workers.lines import PREFIX
from workers.redis_client import renaming_redis_errors

EVENTS_KEPT = 100_000
"""How many webhook events are kept; beyond that the oldest go."""

WORDS_S = 3600
"""How long words that were typed in the editor go with what is pointed at afterwards, in seconds."""

SAME_EVENT_S = 3600
"""How long an event is recognised when it comes a second time, as it does by two webhooks with two names of ours."""

EVENTS, PROJECTS = PREFIX + "events", PREFIX + "gather:projects"
"""Where the events are, and the projects that ever asked for us, with the time of their last looking through."""

_VERSIONS, _OPTIONS = PREFIX + "model-versions", PREFIX + "options"
_DIGESTS = PREFIX + "webhook-digests"
_SKETCHES = PREFIX + "sketches:"
_CHAMPIONS, _TRAININGS = PREFIX + "champions", PREFIX + "trainings"
_TROUBLES = PREFIX + "champion-troubles"

SKETCH_SIZE = 64
"""Numbers in a sketch."""

_HALVES = np.dtype("<f2")

_KEEP_ONCE = """
-- KEYS: what tells the event from others, the events
-- ARGV: how long to recognise it, how many to keep, the event
if KEYS[1] ~= '' and not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[3])
return 1
"""


class Event(Wire):
    """What a webhook of Label Studio said, kept for those who will pull the corrections."""

    action: str
    project_id: int
    annotation_ids: tuple[int, ...] = ()
    task_ids: tuple[int, ...] = ()
    at: AwareDatetime


class Trouble(Wire):
    """A worker cannot load a project's champion; what served before goes on."""

    version: str
    reason: str
    """A sentence."""
    at: AwareDatetime
    host: str = ""
    """Which machine it is that cannot."""


class Sketch(NamedTuple):
    """What a model saw and found in the images of a task, in a few bytes."""

    vector: np.ndarray
    """(SKETCH_SIZE,) float16 of length one; images that look alike have near ones."""
    score: float
    """Of the task's prediction."""
    model_version: str
    labels: frozenset[str] = frozenset()
    """Of the masks that were not empty."""

    def to_bytes(self) -> bytes:
        """Write it down.

        Returns:
            128 bytes for the vector, and JSON for the rest.
        """
        rest = json.dumps([round(self.score, 6), self.model_version, *sorted(self.labels)], ensure_ascii=False)
        return self.vector.astype(_HALVES).tobytes() + rest.encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Args:
            text: What it wrote.

        Returns:
            The sketch.
        """
        size = SKETCH_SIZE * _HALVES.itemsize
        score, model_version, *labels = json.loads(text[size:])
        return cls(np.frombuffer(text[:size], _HALVES), score, model_version, frozenset(labels))


class NoticeBoard:
    """Short notices in Redis.

    Args:
        redis: A client, as `connect` makes it; nothing is sent yet.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._keep_once = redis.register_script(_KEEP_ONCE)

    @renaming_redis_errors()
    def announce(self, model_version: str, *, again: bool = False) -> None:
        """Say which model version a worker serves.

        Args:
            model_version: The version.
            again: Only in case Redis has forgotten it: it does not become the newest.
        """
        self.redis.zadd(_VERSIONS, {model_version: time.time()}, nx=again)

    def model_version(self, project_id: int | None = None) -> str | None:
        """Name the version that workers serve.

        Args:
            project_id: To whom; None for those without a champion of their own.

        Returns:
            The project's champion, else the version announced last, or None before the first worker.
        """
        return next(iter(self.model_versions(project_id)), None)

    @renaming_redis_errors()
    def keep_champion(self, project_id: int, version: str | None) -> None:
        """Tell everybody which version a project's alias names; the registry has it first.

        Args:
            project_id: The project.
            version: Its champion; None for the base.
        """
        if version is None:
            self.redis.hdel(_CHAMPIONS, str(project_id))
        else:
            self.redis.hset(_CHAMPIONS, str(project_id), version)

    @renaming_redis_errors()
    def champion(self, project_id: int) -> str | None:
        """Recall which version serves a project.

        Args:
            project_id: The project.

        Returns:
            Its champion; None for the base.
        """
        version = self.redis.hget(_CHAMPIONS, str(project_id))
        return None if version is None else as_text(version)

    @renaming_redis_errors()
    def champions(self) -> dict[int, str]:
        """List the projects that have a champion of their own.

        Returns:
            Its version, by project.
        """
        found = self.redis.hgetall(_CHAMPIONS)
        return dict(sorted((int(project), as_text(version)) for project, version in found.items()))

    @renaming_redis_errors()
    def keep_trouble(self, project_id: int, host: str, trouble: Trouble | None) -> None:
        """Say that the workers of a machine cannot load a project's champion.

        Args:
            project_id: The project.
            host: The machine's name.
            trouble: Why; None once they can.
        """
        field = f"{project_id}/{host}"
        if trouble is None:
            self.redis.hdel(_TROUBLES, field)
        else:
            self.redis.hset(_TROUBLES, field, trouble.model_copy(update={"host": host}).model_dump_json())

    @renaming_redis_errors()
    def troubles(self) -> dict[int, tuple[Trouble, ...]]:
        """List whose champions cannot be loaded; those of versions that are no longer wanted are over.

        Returns:
            What is wrong, by project.
        """
        champions = self.champions()
        found: dict[int, tuple[Trouble, ...]] = {}
        for field, text in sorted(self.redis.hgetall(_TROUBLES).items()):
            project_id = int(as_text(field).partition("/")[0])
            trouble = Trouble.model_validate_json(text)
            if champions.get(project_id) == trouble.version:
                found[project_id] = (*found.get(project_id, ()), trouble)
        return found

    @renaming_redis_errors()
    def keep_training(self, training: Training) -> None:
        """Say how far the teaching of a project is.

        Args:
            training: In place of what was said before.
        """
        self.redis.hset(_TRAININGS, str(training.project_id), training.model_dump_json())

    @renaming_redis_errors()
    def trainings(self) -> dict[int, Training]:
        """Recall how far the teaching of each project is, or how the last one ended.

        Returns:
            By project.
        """
        found = self.redis.hgetall(_TRAININGS)
        return {int(project): Training.model_validate_json(text) for project, text in sorted(found.items())}

    @renaming_redis_errors()
    def model_versions(self, project_id: int | None = None) -> list[str]:
        """List every version that workers ever loaded at their start.

        Args:
            project_id: Whose champion goes before them; None for nobody's.

        Returns:
            The versions, newest first.
        """
        champion = None if project_id is None else self.champion(project_id)
        loaded = [as_text(version) for version in self.redis.zrevrange(_VERSIONS, 0, -1)]
        return loaded if champion is None else [champion, *loaded]

    @renaming_redis_errors()
    def keep_event(self, event: Event, fingerprint: str = "") -> bool:
        """Keep a webhook's event for those who pull the corrections.

        Args:
            event: What the webhook said.
            fingerprint: What tells it from others; empty where one that looks the same is another.

        Returns:
            Whether it was kept now; not if it was before.
        """
        key = f"{PREFIX}event:{fingerprint}" if fingerprint else ""
        return bool(self._keep_once([key, EVENTS], [SAME_EVENT_S, EVENTS_KEPT, event.model_dump_json()]))

    @renaming_redis_errors()
    def keep_webhook_digest(self, project_id: int, digest: str | None) -> None:
        """Remember what the secret of a project's webhook looks like.

        Args:
            project_id: The project.
            digest: The secret's SHA-256 in hexadecimal; None where there is to be no secret.
        """
        if digest is None:
            self.redis.hdel(_DIGESTS, str(project_id))
        else:
            self.redis.hset(_DIGESTS, str(project_id), digest)

    @renaming_redis_errors()
    def webhook_digest(self, project_id: int) -> str | None:
        """Recall what the secret of a project's webhook looks like.

        Args:
            project_id: The project.

        Returns:
            The secret's SHA-256 in hexadecimal, or None where there is no secret.
        """
        digest = self.redis.hget(_DIGESTS, str(project_id))
        return None if digest is None else as_text(digest)

    @renaming_redis_errors()
    def keep_options(self, project_id: int, options: str | None) -> None:
        """Remember what the backend's extra parameters say about a project.

        Args:
            project_id: The project.
            options: JSON; None where nobody wrote any.
        """
        # Every page of a project's tasks leads here, so whoever has us connected is known to those who gather.
        self.redis.zadd(PROJECTS, {str(project_id): 0}, nx=True)
        if options is None:
            self.redis.hdel(_OPTIONS, str(project_id))
        else:
            self.redis.hset(_OPTIONS, str(project_id), options)

    @renaming_redis_errors()
    def options(self, project_id: int) -> str | None:
        """Recall what the backend's extra parameters say about a project.

        Args:
            project_id: The project.

        Returns:
            JSON, or None where nobody wrote any.
        """
        options = self.redis.hget(_OPTIONS, str(project_id))
        return None if options is None else as_text(options)

    @renaming_redis_errors()
    def keep_sketch(self, project_id: int, task_id: int, sketch: Sketch) -> None:
        """Remember what the images of a task look like, in place of what was remembered before.

        Args:
            project_id: The project.
            task_id: The task.
            sketch: What it looks like.
        """
        self.redis.hset(f"{_SKETCHES}{project_id}", str(task_id), sketch.to_bytes())

    @renaming_redis_errors()
    def sketches(self, project_id: int) -> dict[int, Sketch]:
        """Recall what the images of a project's tasks look like, as far as a worker has seen them.

        Args:
            project_id: The project.

        Returns:
            By the task's number.
        """
        found = self.redis.hscan_iter(f"{_SKETCHES}{project_id}", count=1000)
        return {int(task): Sketch.from_bytes(text) for task, text in found}

    @renaming_redis_errors()
    def remember_words(self, project_id: int, task_id: int, to_name: str, expressions: Sequence[str]) -> None:
        """Remember what was typed about an image in the editor, which never sends it along with what is pointed at.

        Args:
            project_id: The project.
            task_id: The task.
            to_name: The image's name in the labeling config.
            expressions: What was typed; none to forget.
        """
        key = _words_key(project_id, task_id, to_name)
        if expressions:
            self.redis.set(key, json.dumps(expressions), ex=WORDS_S)
        else:
            self.redis.delete(key)

    @renaming_redis_errors()
    def words(self, project_id: int, task_id: int, to_name: str) -> tuple[str, ...]:
        """Recall what was typed about an image within the last `WORDS_S`.

        Args:
            project_id: The project.
            task_id: The task.
            to_name: The image's name in the labeling config.

        Returns:
            The expressions.
        """
        return tuple(json.loads(self.redis.get(_words_key(project_id, task_id, to_name)) or "[]"))


def _words_key(project_id: int, task_id: int, to_name: str) -> str:
    return f"{PREFIX}words:{project_id}:{task_id}:{to_name}"
