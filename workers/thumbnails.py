"""The last predictions as small pictures, for the status page: the only images that ever cross Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import numpy as np
from pydantic import AwareDatetime
from redis import Redis
from rq.utils import as_text

from workers.contract import Wire
from workers.redis_client import renaming_redis_errors

LONGEST = 256
"""Longest side of a picture, in pixels."""

QUALITY = 72
"""Of the JPEG."""

SECONDS = 7 * 24 * 3600
"""How long a picture is kept at most."""

PAUSE_S = 1.0
"""A worker makes no more than one in this time."""

TINT = np.array([255, 90, 30], np.float32)
"""RGB of what was found."""

INDEX = "rsrefseg:thumbnails"
"""The key of Redis with the pictures' names, newest first."""


class Caption(Wire):
    """What a picture shows."""

    name: str
    project_id: int
    task_id: int
    expression: str
    """Of the first mask; how many more there are is not told."""
    label: str
    score: float
    found: bool
    """Whether the mask has any pixel."""
    model_version: str
    at: AwareDatetime


class Thumbnails:
    """The pictures of the last predictions of a fleet.

    Args:
        redis: Where.
        most: How many are kept; 0 for none.
    """

    def __init__(self, redis: Redis, most: int) -> None:
        self._redis = redis
        self._most = most
        self._next_at = 0.0

    def due(self) -> bool:
        """Say whether it is time for another one.

        Returns:
            At most once in `PAUSE_S`.
        """
        if not self._most or time.monotonic() < self._next_at:
            return False
        self._next_at = time.monotonic() + PAUSE_S
        return True

    def keep(self, caption: Caption, jpeg: bytes) -> None:
        """Keep a picture, and let go of the oldest.

        Args:
            caption: What it shows.
            jpeg: The file.
        """
        with self._redis.pipeline() as pipe:
            pipe.hset(_key(caption.name), mapping={"caption": caption.model_dump_json(), "jpeg": jpeg})
            pipe.expire(_key(caption.name), SECONDS)
            pipe.lpush(INDEX, caption.name)
            pipe.lrange(INDEX, self._most, -1)
            pipe.ltrim(INDEX, 0, self._most - 1)
            *_, gone, _trimmed = pipe.execute()
        if gone:
            self._redis.delete(*(_key(as_text(name)) for name in gone))

    @renaming_redis_errors()
    def captions(self) -> list[Caption]:
        """List what there is.

        Returns:
            The captions, newest first.
        """
        names = [as_text(name) for name in self._redis.lrange(INDEX, 0, max(0, self._most - 1))]
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hget(_key(name), "caption")
            texts = pipe.execute() if names else []
        return [Caption.model_validate_json(text) for text in texts if text]

    @renaming_redis_errors()
    def jpeg(self, name: str) -> bytes | None:
        """Read a picture.

        Args:
            name: Its name.

        Returns:
            The file; None if it is gone.
        """
        found = self._redis.hget(_key(name), "jpeg")
        return found if isinstance(found, bytes) else None


def new_name() -> str:
    """Name a picture.

    Returns:
        Something that nobody can guess.
    """
    return uuid.uuid4().hex


def draw_thumbnail(image: np.ndarray, masks: Sequence[np.ndarray]) -> bytes:
    """Draw masks over an image, small.

    Args:
        image: (h, w, 3) uint8 RGB.
        masks: (h, w) bool each.

    Returns:
        A JPEG with `LONGEST` pixels on its longest side at most.
    """
    import cv2  # The web process, which only shows them, does without.

    height, width = image.shape[:2]
    share = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    cover = np.zeros(small.shape[:2], np.uint8)
    for mask in masks:
        cover = np.maximum(cover, cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA))
    inside = (cover > 75).astype(np.uint8)  # A ship of three pixels in the original stays one to be seen.
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    small[inside.astype(bool)] = 0.55 * small[inside.astype(bool)] + 0.45 * TINT
    small[edge] = TINT
    done, jpeg = cv2.imencode(".jpg", small.astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return jpeg.tobytes()


def _key(name: str) -> str:
    return f"rsrefseg:thumbnail:{name}"
