"""The models of projects over the one that a worker loaded: whichever an alias names, loaded beside what serves."""

from __future__ import annotations

import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rsrefseg.errors import BadCheckpoint, RSRefSegError
from workers.bench import Model
from workers.errors import RedisAway, WorkersError
from workers.notices import NoticeBoard, Trouble
from workers.registry import Registry

log = logging.getLogger(__name__)

PAUSE_S = 60.0
"""After how long a version that could not be loaded is tried again, in seconds."""


@runtime_checkable
class Base(Protocol):
    """A model that others can hang over, as `rsrefseg.Predictor` is."""

    def with_heads(self, folder: Path, /) -> Model:
        """Load the heads in a folder beside one's own."""


class Champions:
    """Finds the model of each project; what is found stays the asker's for as long as they like.

    Args:
        queue: Says which version is a project's champion.
        registry: Has the versions' files.
        base: What the worker loaded: it serves whoever has no champion.
        kept: Most versions in memory beside it.
    """

    def __init__(self, queue: NoticeBoard, registry: Registry, base: Model, kept: int) -> None:
        self._queue = queue
        self._registry = registry
        self._base = base
        self._kept = kept
        self._loaded: OrderedDict[tuple[int, str], Model] = OrderedDict()
        """Those that were asked for last at the end."""
        self._served: dict[int, str] = {}
        """The version that was the champion when the project was served last."""
        self._failed: dict[tuple[int, str], float] = {}
        """When to try again what could not be loaded."""
        self._image: Any = None

    def of(self, project_id: int) -> Model:
        """Find what serves a project from now on.

        Args:
            project_id: The project.

        Returns:
            Its champion. Where that cannot be loaded, what served before; else the base.
        """
        if not isinstance(self._base, Base):
            return self._base
        try:
            champion = self._queue.champion(project_id)
        except RedisAway:  # What has moved meanwhile comes with a later chunk.
            champion = self._served.get(project_id)
        for version in self._candidates(project_id, champion):
            model = self._found(self._base, project_id, version)
            if model is not None:
                if version == champion and self._served.get(project_id) != champion:
                    self._say(project_id, None)
                self._served[project_id] = version
                return model
        self._served.pop(project_id, None)
        return self._base

    def _candidates(self, project_id: int, champion: str | None) -> Iterator[str]:
        if champion is None:
            return
        yield champion
        # What served before; whoever has just started knows that from the registry alone.
        for look in (self._served.get, self._former):
            former = look(project_id)
            if former is not None and former != champion:
                yield former

    def _former(self, project_id: int) -> str | None:
        with suppress(OSError, ValueError):
            move = self._registry.last_move(project_id)
            return move.former if move else None
        return None

    def _found(self, base: Base, project_id: int, version: str) -> Model | None:
        key = (project_id, version)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if time.monotonic() < self._failed.get(key, 0):
            return None
        started = time.monotonic()
        about: dict[str, Any] = {"project_id": project_id, "model_version": version}
        try:
            model = self._warm(base.with_heads(self._registry.folder(project_id, version)), version)
        except Exception as exc:  # Whatever it is, there is a model that serves.
            expected = isinstance(exc, (RSRefSegError, WorkersError, OSError))
            reason = str(exc).rstrip(".") + "." if expected else f"{type(exc).__name__}; the worker's log has the rest."
            log.error("version cannot be loaded", extra=about | {"reason": reason}, exc_info=not expected)
            self._failed[key] = time.monotonic() + PAUSE_S
            self._say(project_id, Trouble(version=version, reason=reason, at=datetime.now(UTC)))
            return None
        log.info("version warm", extra=about | {"seconds": round(time.monotonic() - started, 2)})
        self._failed.pop(key, None)
        self._loaded[key] = model
        while len(self._loaded) > self._kept:
            self._loaded.popitem(last=False)
        return model

    def _warm(self, model: Model, version: str) -> Model:
        if model.version != version:
            raise BadCheckpoint(f"the files of {version} are not what they were: they are {model.version}")
        if self._image is None:
            [self._image] = self._base.encode_all([np.zeros((64, 64, 3), np.uint8)])
        model.segment(self._image, ["anything"])
        return model

    def _say(self, project_id: int, trouble: Trouble | None) -> None:
        with suppress(RedisAway):
            self._queue.keep_trouble(project_id, socket.gethostname(), trouble)
