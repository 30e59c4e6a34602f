"""Images on their way while the model draws others."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from workers.contract import PredictJob
from workers.images import ImageFetcher

FETCHERS = 4
"""How many images are fetched at the same time."""

AHEAD_PIXELS = 100_000_000
"""With so many pixels decoded and not yet drawn no further image is begun."""

Image = tuple[np.ndarray, float]
"""(h, w, 3) uint8 RGB, and the seconds that it took to fetch."""


class ImagesAhead:
    """Fetches images before they are asked for, and keeps each until it is.

    Args:
        fetcher: Fetches one.
    """

    def __init__(self, fetcher: ImageFetcher) -> None:
        self._fetcher = fetcher
        self._threads = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetcher")
        self._coming: dict[str, Future[Image]] = {}

    def begin(self, job: PredictJob) -> bool:
        """Let an image be fetched, if there is room for it.

        Args:
            job: A request about it.

        Returns:
            Whether it is on its way.
        """
        if job.image_uri not in self._coming:
            if sum(map(_pixels, self._coming.values())) > AHEAD_PIXELS:
                return False
            self._coming[job.image_uri] = self._threads.submit(self._fetch, job)
        return True

    def is_there(self, job: PredictJob) -> bool:
        """Say whether nobody would have to wait for an image.

        Args:
            job: A request about it.

        Returns:
            Whether it was fetched, or will not come.
        """
        coming = self._coming.get(job.image_uri)
        return coming is not None and coming.done()

    def take(self, job: PredictJob, timeout_s: float) -> Image:
        """Wait for an image; it is then no longer kept. It raises what the fetcher did, or a `TimeoutError`.

        Args:
            job: A request about it.
            timeout_s: How long to wait at most, in seconds.

        Returns:
            The image.
        """
        coming = self._coming.pop(job.image_uri, None) or self._threads.submit(self._fetch, job)
        return coming.result(timeout_s)

    def keep_only(self, uris: Collection[str]) -> None:
        """Let go of the images that turned out to be another worker's.

        Args:
            uris: Those that may still be asked for.
        """
        for uri in self._coming.keys() - set(uris):
            self._coming.pop(uri).cancel()

    def _fetch(self, job: PredictJob) -> Image:
        started = time.monotonic()
        return self._fetcher.fetch(job.image_uri, job.task_id), time.monotonic() - started


def _pixels(coming: Future[Image]) -> int:
    there = coming.done() and not coming.cancelled() and not coming.exception()
    return coming.result()[0].size // 3 if there else 0
