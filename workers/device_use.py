"""What a worker's model takes and saves: memory of its device, and images that were found encoded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from workers import metrics

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class DeviceUse:
    """Reads it from a model.

    Args:
        model: The one that a worker loaded; one without a cache, as a simulated one, has nothing to tell of it.
    """

    def __init__(self, model: object) -> None:
        self._cache: Any = getattr(model, "cache", None)
        self._hits = self._misses = 0

    def note(self) -> None:
        """Note what it is now; cheap enough to be done after each job."""
        metrics.DEVICE_MEMORY.set(_memory())
        if self._cache is None:
            return
        use = self._cache.use
        metrics.EMBEDDINGS.labels("hit").inc(use.hits - self._hits)
        metrics.EMBEDDINGS.labels("miss").inc(use.misses - self._misses)
        self._hits, self._misses = use.hits, use.misses


def _memory() -> int:
    torch = sys.modules.get("torch")  # Not imported for this: whoever computes with it has done so.
    if torch and torch.cuda.is_initialized():
        return int(torch.cuda.memory_reserved())
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_BYTES
