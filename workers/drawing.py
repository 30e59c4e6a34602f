"""Images and expressions to masks, whatever one of them does: what breaks a batch is found by halving it."""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from rq.timeouts import JobTimeoutException
from structlog.contextvars import bound_contextvars

from rsrefseg.errors import BadRequest
from rsrefseg.pointing import Pointing
from rsrefseg.second_look import is_uncertain
from workers import metrics, progress
from workers.bench import Bench, Model, Segmented
from workers.contract import ASKS_LIMIT, Answer, Ask, Found, Pointed, PredictJob, Refusal, Rle
from workers.device_use import synchronise
from workers.errors import ImageAway, ImageRefused, Move
from workers.notices import Sketch

log = logging.getLogger(__name__)

DEVICE_LOST = 71
"""Exit code of a worker whose GPU no longer answers it; its chunk comes again elsewhere, image by image."""

LOOKS_SAVED = 4.0
"""Most second looks that are saved up while all answers are sure."""

TOO_LONG = "It took longer than RSREFSEG_PREDICT_TIMEOUT_S allows."
NO_MEMORY = (
    "There is not enough memory for this image: set RSREFSEG_DTYPE=bfloat16 or a smaller RSREFSEG_CACHE_BYTES, "
    "or use a larger device."
)

NO_MEMORY_TO_DECODE = (
    "There is not enough memory to decode this image: give the worker more, or set a smaller "
    "RSREFSEG_IMAGE_MEMORY_LIMIT."
)


@dataclass(frozen=True)
class Fetched:
    """The images of one task, most often one, and the requests about them."""

    images: tuple[np.ndarray, ...]
    """(h, w, 3) uint8 RGB each."""
    jobs: tuple[PredictJob, ...]
    seconds: float
    """What fetching them took."""


@dataclass(frozen=True)
class Drawn:
    """What the model says to one request."""

    job: PredictJob
    segments: tuple[Segmented, ...]
    """One for each ask."""
    vector: np.ndarray
    """(64,) float16, what its images look like."""
    seconds: float
    """From the beginning of the fetch to the masks, as far as it was these images'."""

    def answer(self, model_version: str) -> Answer:
        """Write it down; large masks take a while.

        Args:
            model_version: Which model it was.

        Returns:
            The answer.
        """
        found = tuple(
            Found(
                expression=ask.expression,
                label=ask.label,
                mask=Rle.from_mask(segment.mask),
                score=segment.score,
                predicted_iou=segment.predicted_iou,
            )
            for ask, segment in zip(self.job.asks, self.segments, strict=True)
        )
        return Answer(job=self.job, model_version=model_version, found=found, seconds=self.seconds)

    def sketch(self, answer: Answer) -> Sketch:
        """Note what a later choice of tasks goes by.

        Args:
            answer: As it was written down.

        Returns:
            What the images look like, and what was found in them.
        """
        pairs = zip(self.job.asks, self.segments, strict=True)
        labels = frozenset(ask.label for ask, segment in pairs if segment.mask.any())
        return Sketch(self.vector, answer.score, answer.model_version, labels)


def draw(bench: Bench, model: Model, images: Sequence[Fetched]) -> Iterator[Drawn | Refusal]:
    """Draw what the requests about some images ask for.

    Args:
        bench: Its batches become smaller if these images are too many for the device's memory.
        model: Which model draws all of it.
        images: At least one.

    Yields:
        For each request, in their order and as soon as it is known, what the model says or why it says nothing.
    """
    started = time.monotonic()
    try:
        metrics.BATCH_IMAGES.observe(sum(len(one.images) for one in images))
        with _on_time(bench), metrics.timed("encode", [job for one in images for job in one.jobs], busy=True):
            embeddings = iter(model.encode_all([image for one in images for image in one.images]))
            synchronise()
    except Exception as exc:
        if len(images) == 1:
            for job in images[0].jobs:
                yield _refusal(job, exc)
            return
        half = len(images) // 2
        if _no_memory(exc):
            bench.batch_images = half
            log.warning("not enough memory for a batch", extra={"images": len(images), "from_now_on": half})
        yield from draw(bench, model, images[:half])
        yield from draw(bench, model, images[half:])
        return
    encoding_s = (time.monotonic() - started) / len(images)
    for one in images:
        yield from _ask(bench, model, tuple(islice(embeddings, len(one.images))), one.jobs, one.seconds + encoding_s)


def _ask(
    bench: Bench, model: Model, embeddings: tuple[Any, ...], jobs: Sequence[PredictJob], seconds: float
) -> Iterator[Drawn | Refusal]:
    started = time.monotonic()
    segments: Sequence[Segmented] | None = None
    vector = np.zeros(0, np.float16)
    if len(jobs) == 1 or sum(len(job.asks) for job in jobs) <= ASKS_LIMIT:
        try:
            with _on_time(bench), metrics.timed("masks", jobs, busy=True):
                vector = _vector(model, embeddings)
                segments = _segments(model, embeddings, [ask for job in jobs for ask in job.asks])
        except Exception as exc:
            if len(jobs) == 1:
                yield _refusal(jobs[0], exc)
                return
    if segments is None:
        half = len(jobs) // 2
        yield from _ask(bench, model, embeddings, jobs[:half], seconds)
        yield from _ask(bench, model, embeddings, jobs[half:], seconds)
        return
    left = iter(segments)
    for job in jobs:
        yield Drawn(job, tuple(next(left) for _ in job.asks), vector, seconds + time.monotonic() - started)


def look_again(bench: Bench, model: Model, images: Sequence[np.ndarray], drawn: Drawn) -> Drawn:
    """Give an answer a second look where its score says least, as far as the share of such looks allows.

    Args:
        bench: Counts them.
        model: Whose answer it is.
        images: (h, w, 3) uint8 RGB, the request's.
        drawn: The answer.

    Returns:
        The same masks, and other scores where there was a second look.
    """
    bench.looks_left = min(bench.looks_left + bench.queue.settings.second_look, LOOKS_SAVED)
    asks, segments = drawn.job.asks, drawn.segments
    # The lowest score becomes that of the prediction.
    worst = min(range(len(segments)), key=lambda place: segments[place].score)
    if bench.looks_left < 1 or not is_uncertain(segments[worst].score) or asks[worst].pointed:
        return drawn
    number = asks[worst].image
    places = [
        place
        for place, ask in enumerate(asks)
        if ask.image == number and ask.pointed is None and is_uncertain(segments[place].score)
    ]
    bench.looks_left -= 1
    started = time.monotonic()
    try:
        with _on_time(bench), metrics.timed("second_look", [drawn.job], busy=True):
            again = model.look_again(images[number], [segments[place] for place in places])
    except Exception as exc:
        if _device_lost(exc):
            _end(exc)
        log.warning("no second look", extra={"task_id": drawn.job.task_id, "error": type(exc).__name__})
        return drawn
    scores = dict(zip(places, again, strict=True))
    seconds = drawn.seconds + time.monotonic() - started
    return replace(drawn, segments=tuple(scores.get(i, one) for i, one in enumerate(segments)), seconds=seconds)


def _vector(model: Model, embeddings: Sequence[Any]) -> np.ndarray:
    # Of several images the middle, of length one again.
    middle = np.stack([model.sketch(one) for one in embeddings]).astype(np.float32).mean(axis=0)
    vector: np.ndarray = middle / max(1e-6, float(np.linalg.norm(middle)))
    return vector.astype(np.float16)


def _segments(model: Model, embeddings: tuple[Any, ...], asks: Sequence[Ask]) -> list[Segmented]:
    drawn: dict[int, Segmented] = {}
    for number, embedding in enumerate(embeddings):
        places = [place for place, ask in enumerate(asks) if ask.image == number]
        expressions = [asks[place].expression for place in places]
        pointings = [_pointing(asks[place].pointed) for place in places]
        drawn.update(zip(places, model.segment(embedding, expressions, pointings), strict=True))
    return [drawn[place] for place in range(len(asks))]


def _pointing(pointed: Pointed | None) -> Pointing | None:
    if pointed is None:
        return None
    points = {side: tuple((p.x, p.y) for p in pointed.points if p.inside is side) for side in (True, False)}
    return Pointing(points[True], points[False], pointed.box_xyxy)


@contextmanager
def _on_time(bench: Bench) -> Iterator[None]:
    # RQ's alarm for the whole job, wound up anew for each step, and then set back.
    progress.busy()
    if signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN, None):
        yield
        return
    started = time.monotonic()
    left = signal.alarm(bench.queue.settings.predict_timeout_s)
    try:
        yield
    finally:
        signal.alarm(max(1, left - round(time.monotonic() - started)) if left else 0)


def _refusal(job: PredictJob, exc: Exception) -> Refusal:
    if _device_lost(exc):
        _end(exc)
    if isinstance(exc, BadRequest):
        return _no(job, "annotator", f"{exc}.", "words_refused")
    if isinstance(exc, JobTimeoutException):
        return _no(job, "ours", TOO_LONG, "too_long")
    if _no_memory(exc):
        return _no(job, "ours", NO_MEMORY, "no_memory")
    return _broken(job)


def _no(job: PredictJob, move: Move, reason: str, cause: str) -> Refusal:
    metrics.FAILURES.labels("predict", move, cause).inc()
    return Refusal(job=job, move=move, reason=reason)


def _end(exc: Exception) -> NoReturn:
    log.critical("the device is lost, so the worker ends", exc_info=exc)
    os._exit(DEVICE_LOST)


def without_image(job: PredictJob, exc: Exception) -> Refusal:
    """Refuse a request whose image cannot be had; call it where the exception is handled.

    Args:
        job: The request.
        exc: What `ImagesAhead.take` raised.

    Returns:
        The refusal.
    """
    if isinstance(exc, ImageRefused):
        return _no(job, exc.move, str(exc), "image_refused")
    if isinstance(exc, ImageAway):
        return _no(job, "wait", str(exc), "image_away")
    if isinstance(exc, TimeoutError):
        return _no(job, "ours", TOO_LONG, "too_long")
    if _no_memory(exc):
        return _no(job, "ours", NO_MEMORY_TO_DECODE, "no_memory")
    return _broken(job)


def _broken(job: PredictJob) -> Refusal:
    # It tells no more than the number under which the log has the rest.
    error_id = uuid.uuid4().hex[:8]
    with bound_contextvars(project_id=job.project_id, task_id=job.task_id):
        log.exception("prediction broke", extra={"error_id": error_id})
    return _no(job, "ours", f"Something of ours broke; the log names it {error_id}.", "broken")


def _device_lost(exc: Exception) -> bool:
    # After an illegal access every later call of the process fails as well; another process may fare better.
    return not _no_memory(exc) and "CUDA error" in str(exc)


def _no_memory(exc: Exception) -> bool:
    # torch, which only a worker with a model imports, has OutOfMemoryError for a GPU and a plain error for a CPU.
    return (
        isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(exc)
    )
