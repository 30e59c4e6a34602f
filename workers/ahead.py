"""Images on their way while the model draws others."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from workers import metrics
from workers.contract import PredictJob
from workers.errors import NoRoom
from workers.images import ImageFetcher

FETCHERS = 4
"""How many images are fetched at the same time."""

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
        self._coming: dict[str, Future[_Image | None]] = {}

    def begin(self, jobs: Sequence[PredictJob]) -> bool:
        """Let the images of requests be fetched, if there is room for them.

        Args:
            jobs: The requests, all about the same images; at least one.

        Returns:
            Whether they are on their way.
        """
        for uri in jobs[0].image_uris:
            if uri not in self._coming:
                if self._fetcher.is_full:
                    return False
                self._coming[uri] = self._begin(uri, jobs, if_room=True)
        return True

    def is_there(self, job: PredictJob) -> bool:
        """Say whether a request's images are at hand.

        Args:
            job: The request.

        Returns:
            Whether they were fetched, or will not come; not where one waits for room.
        """
        return all(
            (one := self._coming.get(uri)) is not None and one.done() and not _no_room(one) for uri in job.image_uris
        )

    def take(self, jobs: Sequence[PredictJob], timeout_s: float) -> tuple[tuple[np.ndarray, ...], float]:
        """Wait for requests' images; they are then no longer kept. It raises what the fetcher did, or `TimeoutError`.

        Args:
            jobs: The requests, all about the same images; at least one.
            timeout_s: How long to wait at most, in seconds.

        Returns:
            (h, w, 3) uint8 RGB each, and the seconds that they took to fetch.
        """
        until = time.monotonic() + timeout_s
        uris = jobs[0].image_uris
        coming = {uri: self._coming.pop(uri, None) for uri in dict.fromkeys(uris)}
        begun = {uri: one or self._begin(uri, jobs, if_room=True) for uri, one in coming.items()}
        there: dict[str, _Image] = {}
        for uri, one in begun.items():
            image = one.result(max(0.0, until - time.monotonic()))
            while image is None:  # There was no room for it; now that it is wanted there will be.
                wanted = self._begin(uri, jobs, if_room=False)
                image = wanted.result(max(0.0, until - time.monotonic()))
            there[uri] = image
        images = [there[uri] for uri in uris]
        return tuple(image for image, _ in images), sum(seconds for _, seconds in images)

    def keep_only(self, uris: Collection[str]) -> None:
        """Let go of the images that turned out to be another worker's.

        Args:
            uris: Those that may still be asked for.
        """
        for uri in self._coming.keys() - set(uris):
            self._coming.pop(uri).cancel()

    def _begin(self, uri: str, jobs: Sequence[PredictJob], *, if_room: bool) -> Future[_Image | None]:
        return self._threads.submit(copy_context().run, self._fetch, uri, jobs, if_room)

    def _fetch(self, uri: str, jobs: Sequence[PredictJob], if_room: bool) -> _Image | None:
        started = time.monotonic()
        try:
            with metrics.timed("fetch", jobs):
                return self._fetcher.fetch(uri, jobs[0].task_id, if_room=if_room), time.monotonic() - started
        except NoRoom:
            return None  # Not left to raise: what is raised holds on to the file.


def _no_room(coming: Future[_Image | None]) -> bool:
    return not coming.cancelled() and coming.exception() is None and coming.result() is None
