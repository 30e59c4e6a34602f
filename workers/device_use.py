"""What a worker takes and saves: memory and time of its device, and images that were found encoded."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from workers import metrics

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

LOOK_BACK_S = 60.0
"""Over how long the share of busy time is taken, in seconds."""

MEMORY, BUSY = "device_memory_bytes", "device_busy_share"
"""Fields of RQ's record of a worker, for people."""


class DeviceUse:
    """Reads it, of one process.

    Args:
        model: The one that a worker loaded; one without a cache, as a simulated one, has nothing to tell of it.
    """

    def __init__(self, model: object = None) -> None:
        self._cache: Any = getattr(model, "cache", None)
        self._hits = self._misses = 0
        self._lock = threading.Lock()  # The thread that renews leases notes it too.
        self._busy: deque[tuple[float, float]] = deque([(time.monotonic(), _busy_s())])

    def note(self) -> dict[Any, Any]:
        """Note what it is now; cheap enough to be done after each job.

        Returns:
            Fields for the record of the worker: bytes of the device, and the share of the last minute that it computed.
        """
        with self._lock:
            memory = _memory()
            metrics.DEVICE_MEMORY.set(memory)
            if self._cache is not None:
                use = self._cache.use
                metrics.EMBEDDINGS.labels("hit").inc(use.hits - self._hits)
                metrics.EMBEDDINGS.labels("miss").inc(use.misses - self._misses)
                self._hits, self._misses = use.hits, use.misses
            return {MEMORY: str(memory), BUSY: f"{self._share():.3f}"}

    def _share(self) -> float:
        at, busy_s = time.monotonic(), _busy_s()
        while len(self._busy) > 1 and self._busy[1][0] <= at - LOOK_BACK_S:
            self._busy.popleft()
        since, before_s = self._busy[0]
        self._busy.append((at, busy_s))
        return min(1.0, (busy_s - before_s) / max(at - since, 1e-3))


def _busy_s() -> float:
    [family] = metrics.BUSY_SECONDS.collect()
    return float(next(sample.value for sample in family.samples if sample.name.endswith("_total")))


def synchronise() -> None:
    """Wait for what the model has begun: a GPU's calls return before they are done, and the next would take longer."""
    if cuda := _cuda():
        cuda.synchronize()


def _cuda() -> Any:
    torch = sys.modules.get("torch")  # Not imported for this: whoever computes with it has done so.
    return torch.cuda if torch and torch.cuda.is_initialized() else None


def _memory() -> int:
    if cuda := _cuda():
        return int(cuda.memory_reserved())
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_BYTES
