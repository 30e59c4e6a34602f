"""What Prometheus is told: every metric of our processes, and where it may be fetched; imports no torch."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from workers import traces
from workers.contract import PredictJob
from workers.corrections import TaskCorrections
from workers.errors import RedisAway, SettingsError
from workers.queue import JobQueue
from workers.settings import Settings
from workers.status import status_of

log = logging.getLogger(__name__)

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes of one supervisor write what it shows; prometheus_client reads it when it is imported."""

TEXT = CONTENT_TYPE_LATEST
"""What the text format is called."""

PROJECTS = 50
"""Projects with a line of their own, those with the most requests on their way; a label must not grow without end."""

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
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


class Fleet(Collector):
    """What Redis knows of the whole fleet, read when somebody asks; one process shows it, the web process.

    Args:
        queue: Where it is read.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterable[Metric]:
        """Read it.

        Yields:
            The metrics; without Redis that it is away, and nothing else.
        """
        up = GaugeMetricFamily("rsrefseg_redis_up", "Whether Redis answers.")
        try:
            found = status_of(self._queue)
            memory = int(self._queue.redis.info("memory")["used_memory"])
        except RedisAway:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("rsrefseg_redis_memory_bytes", "Memory that Redis uses.", memory)
        requests = GaugeMetricFamily("rsrefseg_queue_requests", "Requests on their way.", labels=["state"])
        for state in ("waiting", "running", "to_deliver"):
            requests.add_metric([state], getattr(found, state))
        yield requests
        yield GaugeMetricFamily("rsrefseg_failures_listed", "Failures that nobody asked again.", found.failed)
        projects = GaugeMetricFamily("rsrefseg_project_requests", "Those of the busiest projects.", labels=["project"])
        for project, count in sorted(found.projects.items(), key=lambda item: -item[1])[:PROJECTS]:
            projects.add_metric([str(project)], count)
        yield projects
        rates = GaugeMetricFamily("rsrefseg_rate_per_second", "Over the last minute.", labels=["what"])
        rates.add_metric(["answered"], found.answered_per_s)
        rates.add_metric(["delivered"], found.delivered_per_s)
        yield rates
        workers = GaugeMetricFamily("rsrefseg_workers", "Processes that take jobs.", labels=["queue", "state"])
        counted: dict[tuple[str, str], int] = {}
        for worker in found.workers:
            key = (",".join(worker.queues), worker.state)
            counted[key] = counted.get(key, 0) + 1
        for key, count in counted.items():
            workers.add_metric(list(key), count)
        yield workers
        served = GaugeMetricFamily("rsrefseg_model_version_info", "What serves.", labels=["project", "model_version"])
        if found.model_version:
            served.add_metric(["", found.model_version], 1)
        for project, version in sorted(found.champions.items())[:PROJECTS]:
            served.add_metric([str(project), version], 1)
        yield served
        troubles = sum(map(len, found.troubles.values()))
        yield GaugeMetricFamily("rsrefseg_champion_troubles", "Champions that a machine cannot load.", troubles)
        yield self._oldest()

    def _oldest(self) -> Metric:
        ages = GaugeMetricFamily("rsrefseg_queue_oldest_seconds", "Age of the oldest job.", labels=["queue"])
        for queue in (self._queue.interactive, self._queue.gpu, self._queue.label_studio, self._queue.train):
            first = queue.get_jobs(0, 1)
            since = first[0].enqueued_at if first else None
            if since is not None:
                since = since if since.tzinfo else since.replace(tzinfo=UTC)
                age = (datetime.now(UTC) - since).total_seconds()
                ages.add_metric([queue.name], max(0.0, age))
            else:
                ages.add_metric([queue.name], 0.0)
        return ages


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
                    KEPT_IOU.labels(annotation.model_version or "").observe(correction.iou)


def show(settings: Settings, registry: CollectorRegistry | None = None) -> None:
    """Serve this process' metrics on an address of their own, if the settings name a port.

    Args:
        settings: For the address.
        registry: What to serve; None for what this process counts itself.

    Raises:
        SettingsError: If the port is taken.
    """
    if settings.metrics_port is None:
        return
    where = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        if registry is None:
            start_http_server(settings.metrics_port, settings.metrics_host)
        else:
            start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as exc:
        raise SettingsError(
            f"Metrics cannot be served on {where} ({exc.strerror or exc}): choose another RSREFSEG_METRICS_PORT."
        ) from exc
    log.info("metrics served", extra={"address": where})


@contextmanager
def shown_for_children(settings: Settings) -> Iterator[None]:
    """Serve what the processes that are started meanwhile count, all on one address.

    Args:
        settings: For the address.

    Yields:
        Nothing.
    """
    if settings.metrics_port is None:
        yield
        return
    folder = tempfile.mkdtemp(prefix="rsrefseg-metrics-")
    try:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)
        registry.register(DEATHS)
        show(settings, registry)
        os.environ[SHARED] = folder  # The children's; ours was read when prometheus_client was imported.
        yield
    finally:
        os.environ.pop(SHARED, None)
        shutil.rmtree(folder, ignore_errors=True)


def forget(pid: int, exit_code: int) -> None:
    """Count a process that is gone no longer among the living.

    Args:
        pid: Which.
        exit_code: How it ended.
    """
    DEATHS.labels(str(exit_code)).inc()
    if SHARED in os.environ:
        mark_process_dead(pid)


def of_web(queue: JobQueue) -> bytes:
    """Write down what the web process counts and what Redis knows of the fleet.

    Args:
        queue: Where that is read.

    Returns:
        Prometheus' text format.
    """
    fleet = CollectorRegistry(auto_describe=False)
    fleet.register(Fleet(queue))
    return bytes(generate_latest(REGISTRY) + generate_latest(fleet))
