"""What is measured: every metric that our processes count themselves; imports no torch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from workers import traces
from workers.contract import PredictJob
from workers.corrections import TaskCorrections

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
VERSIONS = 20
"""Model versions with an IoU of their own, those met last; a label must not grow without end."""

OURS = re.compile(r"[\w.-]{1,40}@[\w.-]{1,40}")
"""How versions of ours are called; predictions come from elsewhere too, under whatever name."""

OTHERS = "other"
"""What stands for those."""

RATIOS = tuple(tenth / 10 for tenth in range(11))

HTTP_SECONDS = Histogram(
    "rsrefseg_http_request_seconds", "Answering a request of Label Studio.", ["route", "status"], buckets=WAITS_S
)
TAKEN = Counter("rsrefseg_requests_taken", "Requests for masks that the web process took in.", ["door"])
ANSWERED = Counter("rsrefseg_requests_answered", "Requests that a worker ended.", ["outcome"])
STAGE_SECONDS = Histogram("rsrefseg_stage_seconds", "What each stage takes.", ["stage"], buckets=WAITS_S)
BATCH_IMAGES = Histogram("rsrefseg_batch_images", "Images encoded at once.", buckets=(1, 2, 4, 8, 16, 32))
BUSY_SECONDS = Counter("rsrefseg_device_busy_seconds", "Time in which the model computed.")
IMAGES = Counter("rsrefseg_image_fetches", "Image files that workers asked for.", ["outcome"])
DELIVERED = Counter("rsrefseg_deliveries", "Deliveries that ended or were put off.", ["outcome"])
CORRECTIONS = Counter("rsrefseg_corrections", "Corrections gathered.", ["origin"])
KEPT_IOU = Histogram(
    "rsrefseg_prediction_annotation_iou",
    "IoU between the mask as shown and as people left it.",
    ["model_version"],
    buckets=RATIOS,
)
ASKED_TO_DELIVERED = Histogram(
    "rsrefseg_asked_to_delivered_seconds",
    "From taking a request in to its stored prediction.",
    buckets=(1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
UNSERVED = Counter("rsrefseg_editor_unserved", "Times that a person in the editor got no mask.", ["reason"])
TRAININGS = Counter("rsrefseg_trainings", "Trainings that ended.", ["outcome"])
TRAINING_SECONDS = Gauge("rsrefseg_training_seconds", "What the last training took.", multiprocess_mode="max")

FAILURES = Counter("rsrefseg_failures", "Requests that failed for good.", ["stage", "move", "cause"])
EMBEDDINGS = Counter("rsrefseg_embedding_cache", "Images asked of the cache of features.", ["result"])
DEVICE_MEMORY = Gauge(
    "rsrefseg_device_memory_bytes",
    "Memory of the device that a worker holds; on a CPU that of the process.",
    multiprocess_mode="liveall",
)
LABEL_STUDIO_CALLS = Counter("rsrefseg_label_studio_calls", "Calls of Label Studio's API.", ["method", "status"])
DEATHS = Counter("rsrefseg_worker_deaths", "Processes of a worker or trainer that died.", ["exit_code"], registry=None)
"""Counted by the supervisor alone, in its own memory."""


@contextmanager
def timed(stage: str, jobs: Sequence[PredictJob] = (), *, busy: bool = False) -> Iterator[None]:
    """Time a stage of the road.

    Args:
        stage: Its name in `rsrefseg_stage_seconds`.
        jobs: The requests in whose traces it belongs.
        busy: Whether the model computes in it.

    Yields:
        Nothing.
    """
    started = time.perf_counter()
    error = ""
    try:
        yield
    except BaseException as exc:
        error = type(exc).__name__
        raise
    finally:
        seconds = time.perf_counter() - started
        STAGE_SECONDS.labels(stage).observe(seconds)
        traces.past(stage, jobs, seconds, error)
        if busy:
            BUSY_SECONDS.inc(seconds)


def count_corrections(before: TaskCorrections | None, after: TaskCorrections) -> None:
    """Count what annotators did to masks, once for each annotation in each of its forms.

    Args:
        before: What was kept of the task.
        after: What is kept now.
    """
    known = {(one.annotation_id, one.updated_at) for one in before.annotations} if before else set()
    for annotation in after.annotations:
        if (annotation.annotation_id, annotation.updated_at) not in known:
            for correction in annotation.corrections:
                CORRECTIONS.labels(correction.origin).inc()
                if correction.iou is not None:
                    KEPT_IOU.labels(_version_label(annotation.model_version or "")).observe(correction.iou)


_versions: dict[str, None] = {}
"""Those with a label, the one met last at the end."""


def _version_label(version: str) -> str:
    if not OURS.fullmatch(version):
        return OTHERS
    _versions.pop(version, None)
    _versions[version] = None
    if len(_versions) > VERSIONS:
        oldest = next(iter(_versions))
        del _versions[oldest]
        KEPT_IOU.remove(oldest)
    return version
