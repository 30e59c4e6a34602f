"""Where Prometheus may fetch what a process counts: of a courier, or of all workers of a command at once."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from workers.errors import SettingsError
from workers.metrics import DEATHS
from workers.settings import Settings

log = logging.getLogger(__name__)

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes of one supervisor write what it shows; prometheus_client reads it when it is imported."""


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
