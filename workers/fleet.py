"""What Redis knows of the whole fleet, for Prometheus: one process shows it, the web process; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.errors import RedisAway
from workers.queue import JobQueue
from workers.status import status_of

PROJECTS = 50
"""Projects with a line of their own, those with the most requests on their way; a label must not grow without end."""


class Fleet(Collector):
    """What Redis knows of the whole fleet, read when somebody asks.

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
            found = status_of(self._queue, failures=0)
            ages = self._queue.ages()
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
        oldest = GaugeMetricFamily(
            "rsrefseg_queue_oldest_seconds", "Since the oldest of what is next was asked for.", labels=["queue"]
        )
        for queue, age in ages.items():
            oldest.add_metric([queue], age)
        yield oldest


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
