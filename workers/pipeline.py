"""A chunk on its way through a worker: images are fetched ahead, the model draws, answers are handed over behind it.

The three go on at the same time, so that the model waits for neither the network nor Redis.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from itertools import islice

import numpy as np
from structlog.contextvars import bound_contextvars
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from workers import metrics, progress
from workers.bench import Bench, Model
from workers.contract import Chunk, PredictJob, Refusal
from workers.drawing import Drawn, Fetched, draw, look_again, without_image
from workers.errors import ImageAway, JobStopped, RedisAway
from workers.failures import Failure
from workers.redis_client import REDIS_ERRORS
from workers.thumbnails import Caption, draw_thumbnail, new_name

log = logging.getLogger(__name__)

AHEAD = 4
"""How many images are fetched ahead of a batch."""

BATCH_S = 0.5
"""How long a batch may take, in seconds: a person waits for it, and a device that is that slow is full anyway."""

BACKOFF_S = (5, 30, 120, 600)
"""Pauses before an image that was away is asked for again, in seconds."""


class Pipeline:
    """One chunk, once.

    Args:
        bench: The worker's tools.
        chunk: What it was given.
        chunk_id: The job of the chunk.
        died: Whether a worker died over it before.
    """

    def __init__(self, bench: Bench, chunk: Chunk, chunk_id: str, *, died: bool = False) -> None:
        self._bench = bench
        self._chunk = chunk
        self._chunk_id = chunk_id
        self._died = died
        by_images: dict[tuple[str, ...], list[PredictJob]] = {}
        for job in bench.queue.still_held(chunk, chunk_id):
            by_images.setdefault(job.image_uris, []).append(job)
        self._left = deque(tuple(jobs) for jobs in by_images.values())
        """The requests that were not begun; those about the same images together."""
        self._away: list[PredictJob] = []
        self._behind: deque[Future[None]] = deque()

    def run(self) -> None:
        """Answer or refuse what the chunk holds, or put it back; `RedisAway` says that it will come again instead.

        Raises:
            JobStopped: If a person stopped the chunk; what was not begun is put back.
        """
        if self._died and sum(map(len, self._left)) > 1:
            self._split()
            return
        model = self._bench.models.of(self._chunk.project_id)  # Once: what moves meanwhile is for the next chunk.
        until = time.monotonic() + self._bench.queue.settings.chunk_s
        begun = False
        self._bench.images.keep_only([uri for jobs in self._left for uri in jobs[0].image_uris])
        with ThreadPoolExecutor(1, thread_name_prefix="messenger") as messenger:
            try:
                while self._left and not self._bench.stop.asked and time.monotonic() < until:
                    if begun and self._bench.queue.somebody_waits():
                        break  # What is left comes again, behind the person.
                    begun = True
                    for outcome in self._drawn(model, self._next_batch()):
                        self._behind.append(
                            messenger.submit(copy_context().run, self._hand_over, outcome, model.version)
                        )
                    self._catch_up(2 * self._bench.batch_images)
            except JobStopped:
                self._put_back_rest()
                raise
            self._put_back_rest()
            self._put_back_away()
            self._catch_up(0)

    def _split(self) -> None:
        # One of the images that were in the pipeline at once killed the worker, or one of the requests about it: each
        # gets a chunk of its own.
        log.warning("a worker died over this chunk, which is split", extra={"images": len(self._left)})
        if len(self._left) == 1:
            suspects: list[tuple[PredictJob, ...]] = [(job,) for job in self._left.popleft()]
        else:
            suspects = [self._left.popleft() for _ in range(min(self._bench.batch_images + AHEAD, len(self._left)))]
        self._put_back_rest()
        for suspect in reversed(suspects):
            self._put_back(suspect)

    def _put_back_rest(self) -> None:
        self._put_back([job for jobs in self._left for job in jobs])

    def _put_back(self, jobs: Sequence[PredictJob]) -> None:
        if jobs:
            self._bench.queue.put_back(jobs, self._chunk_id, "head of line", tries=self._chunk.tries)

    def _put_back_away(self) -> None:
        if self._away:
            tries = self._chunk.tries
            pause_s = BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]
            self._bench.queue.put_back(self._away, self._chunk_id, "later", tries=tries + 1, in_s=pause_s)

    def _next_batch(self) -> list[tuple[PredictJob, ...]]:
        # The next image, and with it those right behind it that are there already.
        images, most = self._bench.images, self._most()
        for jobs in islice(self._left, most + AHEAD):
            if not images.begin(jobs):
                break
        batch = [self._left.popleft()]
        while self._left and len(batch) < most and images.is_there(self._left[0][0]):
            batch.append(self._left.popleft())
        return batch

    def _most(self) -> int:
        image_s = self._bench.image_s
        return min(self._bench.batch_images, max(1, int(BATCH_S / image_s))) if image_s else self._bench.batch_images

    def _drawn(self, model: Model, batch: Sequence[tuple[PredictJob, ...]]) -> Iterator[Drawn | Refusal]:
        fetched: list[Fetched] = []
        for jobs in batch:
            one = self._fetched(jobs)
            if isinstance(one, Fetched):
                fetched.append(one)
            else:
                yield from one
        images = {job.key: one.images for one in fetched for job in one.jobs}
        began = time.monotonic()
        for outcome in draw(self._bench, model, fetched) if fetched else ():
            if isinstance(outcome, Drawn):
                outcome = look_again(self._bench, model, images[outcome.job.key], outcome)
                self._picture(images[outcome.job.key], outcome, model.version)
            yield outcome
        if fetched:
            self._bench.image_s = (time.monotonic() - began) / len(fetched)

    def _picture(self, images: Sequence[np.ndarray], drawn: Drawn, model_version: str) -> None:
        pictures = self._bench.thumbnails
        if pictures is None or drawn.job.interactive or not pictures.due():
            return
        ask, segment = drawn.job.asks[0], drawn.segments[0]
        pairs = zip(drawn.job.asks, drawn.segments, strict=True)
        jpeg = draw_thumbnail(images[ask.image], [one.mask for other, one in pairs if other.image == ask.image])
        caption = Caption(
            name=new_name(),
            project_id=drawn.job.project_id,
            task_id=drawn.job.task_id,
            expression=ask.expression,
            label=ask.label,
            score=segment.score,
            found=bool(segment.mask.any()),
            model_version=model_version,
            at=datetime.now(UTC),
        )
        with suppress(*REDIS_ERRORS):  # A picture less is no reason to draw the masks again.
            pictures.keep(caption, jpeg)

    def _fetched(self, jobs: tuple[PredictJob, ...]) -> Fetched | list[Refusal]:
        try:
            images, seconds = self._bench.images.take(jobs, self._bench.queue.settings.predict_timeout_s)
        except Exception as exc:
            if isinstance(exc, ImageAway) and self._chunk.tries < exc.tries:
                log.info("image away", extra={"reason": str(exc), "attempt": self._chunk.tries + 1})
                self._away += jobs
                return []
            return [without_image(job, exc) for job in jobs]
        finally:
            progress.busy()
        return Fetched(images, jobs, seconds)

    # The masks are worth waiting for a Redis that restarts: else all is drawn again.
    @retry(
        retry=retry_if_exception_type(RedisAway),
        wait=wait_exponential(0.1, max=2),
        stop=stop_after_delay(30),
        reraise=True,
    )
    def _hand_over(self, outcome: Drawn | Refusal, model_version: str) -> None:
        job = outcome.job
        with bound_contextvars(
            job_id=job.key, project_id=job.project_id, task_id=job.task_id, model_version=model_version
        ):
            if isinstance(outcome, Refusal):
                log.warning("refused", extra={"move": outcome.move, "reason": outcome.reason})
                failure = Failure.of(job, "predict", outcome.move, outcome.reason)
                self._bench.queue.record_failure(failure)
                metrics.ANSWERED.labels(f"refused_{outcome.move}").inc()
            else:
                answer = outcome.answer(model_version)
                self._bench.queue.keep_sketch(job.project_id, job.task_id, outcome.sketch(answer))
                self._bench.queue.deliver(answer)
                metrics.ANSWERED.labels("interactive" if job.interactive else "answered").inc()
                log.info("masks ready", extra={"masks": len(answer.found), "seconds": round(answer.seconds, 3)})

    def _catch_up(self, allowed: int) -> None:
        # Masks that wait for the messenger take memory.
        while len(self._behind) > allowed:
            self._behind.popleft().result()
            progress.busy()
