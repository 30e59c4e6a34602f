"""Images on their way while the model draws others."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from workers import metrics
from workers.contract import PredictJob
from workers.images import ImageFetcher

FETCHERS = 4
"""How many images are fetched at the same time."""

AHEAD_PIXELS = 100_000_000
"""With so many pixels decoded and not yet drawn no further image is begun."""

_Image = tuple[np.ndarray, float]
"""(h, w, 3) uint8 RGB, and the seconds that it took to fetch."""


class ImagesAhead:
    """Fetches images before they are asked for, and keeps each until it is.

    Args:
        fetcher: Fetches one.
    """

    def __init__(self, fetcher: ImageFetcher) -> None:
        self._fetcher = fetcher
        self._threads = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetcher")
        self._coming: dict[str, Future[_Image]] = {}

    def begin(self, job: PredictJob) -> bool:
        """Let a request's images be fetched, if there is room for them.

        Args:
            job: The request.

        Returns:
            Whether they are on their way.
        """
        for uri in job.image_uris:
            if uri not in self._coming:
                if sum(map(_pixels, self._coming.values())) > AHEAD_PIXELS:
                    return False
                self._coming[uri] = self._threads.submit(copy_context().run, self._fetch, uri, job.task_id)
        return True

    def is_there(self, job: PredictJob) -> bool:
        """Say whether nobody would have to wait for a request's images.

        Args:
            job: The request.

        Returns:
            Whether they were fetched, or will not come.
        """
        return all((coming := self._coming.get(uri)) is not None and coming.done() for uri in job.image_uris)

    def take(self, job: PredictJob, timeout_s: float) -> tuple[tuple[np.ndarray, ...], float]:
        """Wait for a request's images; they are then no longer kept. It raises what the fetcher did, or `TimeoutError`.

        Args:
            job: The request.
            timeout_s: How long to wait at most, in seconds.

        Returns:
            (h, w, 3) uint8 RGB each, and the seconds that they took to fetch.
        """
        until = time.monotonic() + timeout_s
        coming = {uri: self._coming.pop(uri, None) for uri in set(job.image_uris)}
        begun = {
            uri: one or self._threads.submit(copy_context().run, self._fetch, uri, job.task_id)
            for uri, one in coming.items()
        }
        images = [begun[uri].result(max(0.0, until - time.monotonic())) for uri in job.image_uris]
        return tuple(image for image, _ in images), sum(seconds for _, seconds in images)

    def keep_only(self, uris: Collection[str]) -> None:
        """Let go of the images that turned out to be another worker's.

        Args:
            uris: Those that may still be asked for.
        """
        for uri in self._coming.keys() - set(uris):
            self._coming.pop(uri).cancel()

    def _fetch(self, uri: str, task_id: int) -> _Image:
        started = time.monotonic()
        with metrics.timed("fetch"):
            return self._fetcher.fetch(uri, task_id), time.monotonic() - started


def _pixels(coming: Future[_Image]) -> int:
    there = coming.done() and not coming.cancelled() and not coming.exception()
    return coming.result()[0].size // 3 if there else 0
