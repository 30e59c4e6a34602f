"""A request's way through all processes, as OpenTelemetry tells it; off, it costs nothing and imports nothing.

    /predict --- request --+-- queue, fetch, encode, masks, second_look    (worker)
                           +-- deliver                                     (courier)
    chunk ... links to the requests in it

A request carries its place in its trace as a W3C traceparent, through Redis too. This module imports no OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from workers.contract import Chunk, PredictJob
from workers.settings import Settings

if TYPE_CHECKING:
    from workers.spans import Spans

log = logging.getLogger(__name__)

MISSING = "OpenTelemetry is not installed, so no traces are sent: pip install 'rsrefseg[traces]'."

_told: list[Spans] = []
"""What tells of this process; empty while nobody wants to know."""


def start(settings: Settings, service: str) -> None:
    """Tell of what this process does from now on, if the settings say to whom.

    Args:
        settings: For the address and the share.
        service: What the process is: rsrefseg-web, rsrefseg-worker, rsrefseg-courier or rsrefseg-prelabel.
    """
    if settings.traces_url is None:
        return
    try:
        from workers.spans import Spans
    except ImportError as exc:
        log.warning("traces not sent", extra={"reason": MISSING, "error": str(exc)})
        return
    tell(Spans.exported(service, version("rsrefseg"), settings.traces_share, settings.traces_url))


def tell(spans: Spans | None) -> None:
    """Choose what tells of this process.

    Args:
        spans: It; None for nothing.
    """
    _told[:] = [] if spans is None else [spans]


@contextmanager
def call(name: str, traceparent: str | None) -> Iterator[None]:
    """Tell of a call from outside.

    Args:
        name: Of the route.
        traceparent: The caller's, if it sent one.

    Yields:
        Nothing.
    """
    if not _told:
        yield
        return
    with _told[0].call(name, traceparent):
        yield


def ask(job: PredictJob, *, alone: bool) -> str | None:
    """Begin what is told of a request.

    Args:
        job: The request.
        alone: Whether it came alone: of many each begins a trace of its own, lest one trace has ten thousand spans.

    Returns:
        What the request is to carry.
    """
    return _told[0].ask(job, alone=alone) if _told else None


@contextmanager
def chunk(chunk_id: str, held: Chunk) -> Iterator[None]:
    """Tell of a chunk.

    Args:
        chunk_id: Its job.
        held: The chunk.

    Yields:
        Nothing.
    """
    if not _told:
        yield
        return
    with _told[0].chunk(chunk_id, held.requests):
        yield


def past(stage: str, jobs: Sequence[PredictJob], seconds: float, error: str = "") -> None:
    """Tell of a stage that just ended.

    Args:
        stage: Its name, as in `rsrefseg_stage_seconds`.
        jobs: Which requests it was about.
        seconds: How long it took.
        error: What it raised; empty if nothing.
    """
    if _told:
        _told[0].past(stage, jobs, seconds, error)
