"""What was computed lately, kept up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from rsrefseg.features import ImageFeatures


@dataclass(frozen=True)
class CacheUse:
    """How a cache has served so far."""

    hits: int
    misses: int
    images: int
    """Kept at present."""
    bytes: int
    """That they take, of at most `limit_bytes`."""
    limit_bytes: int


class FeatureCache:
    """Keep the features of the images that were asked about last. Threads may share it.

    Args:
        limit_bytes: Of all tensors kept, on whatever device they lie; 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, ImageFeatures] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> ImageFeatures | None:
        """Look features up; they then count as the last that were asked for.

        Args:
            key: They were put under.

        Returns:
            The features, or None.
        """
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, features: ImageFeatures) -> None:
        """Keep features, and let go of those that nobody asked for the longest.

        Args:
            key: To find them by.
            features: Of one image.
        """
        with self._lock:
            self._drop(key)
            if size_of(features) > self._limit_bytes:
                return
            self._kept[key] = features
            self._bytes += size_of(features)
            while self._bytes > self._limit_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= size_of(dropped)

    @property
    def use(self) -> CacheUse:
        """How it has served so far."""
        with self._lock:
            return CacheUse(self._hits, self._misses, len(self._kept), self._bytes, self._limit_bytes)


def size_of(features: ImageFeatures) -> int:
    """Count what features take in memory.

    Args:
        features: Of any number of images.

    Returns:
        Bytes, of the whole storage where a tensor is a part of one.
    """
    return sum(tensor.untyped_storage().nbytes() for tensor in features)
