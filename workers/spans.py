"""What `workers.traces` does once traces are wanted: spans of OpenTelemetry, exported in batches as OTLP over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from workers.contract import PredictJob

EXPORT_S = 5.0
"""Longest that sending spans may take, in seconds; a process that ends waits no longer for it."""

_W3C = TraceContextTextMapPropagator()


class Spans:
    """The spans of one process.

    Args:
        service: What the process is.
        version: Of this program.
        share: How many of the traces that begin here are told, in [0, 1]; those that began elsewhere go on as they are.
        processor: Where ended spans go.
    """

    def __init__(self, service: str, version: str, share: float, processor: SpanProcessor) -> None:
        resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version})
        self._provider = TracerProvider(ParentBased(TraceIdRatioBased(share)), resource)
        # A chunk is told as soon as one of its requests is.
        everything = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        for provider in (self._provider, everything):
            provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("rsrefseg", version)
        self._chunks = everything.get_tracer("rsrefseg", version)

    @classmethod
    def exported(cls, service: str, version: str, share: float, url: str) -> Spans:
        """Send spans to a collector, from a thread of their own; one that is away costs spans and nothing else.

        Args:
            service: What the process is.
            version: Of this program.
            share: How many of the traces that begin here are told.
            url: The whole address of OTLP over HTTP.

        Returns:
            The spans.
        """
        return cls(service, version, share, BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_S)))

    @contextmanager
    def call(self, name: str, traceparent: str | None) -> Iterator[None]:
        """Tell of a call from outside; what happens meanwhile on this thread belongs to it.

        Args:
            name: Of the route.
            traceparent: The caller's, if it sent one.

        Yields:
            Nothing.
        """
        with self._tracer.start_as_current_span(name, _context_of(traceparent), SpanKind.SERVER):
            yield

    def ask(self, job: PredictJob, *, alone: bool) -> str:
        """Begin what is told of a request.

        Args:
            job: The request.
            alone: Whether it is part of the trace of the call that brought it; else it begins its own.

        Returns:
            Its W3C traceparent.
        """
        caller = trace.get_current_span().get_span_context()
        links = [] if alone or not caller.is_valid else [Link(caller)]
        span = self._tracer.start_span(
            "request", None if alone else Context(), SpanKind.PRODUCER, _attributes_of(job), links
        )
        span.end()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(span))
        return carrier["traceparent"]

    @contextmanager
    def chunk(self, chunk_id: str, jobs: Iterable[PredictJob]) -> Iterator[None]:
        """Tell of a chunk, which leads to the requests in it.

        Args:
            chunk_id: Its job.
            jobs: Its requests.

        Yields:
            Nothing.
        """
        asked = [parent for job in jobs if (parent := _parent_of(job))]
        if not asked:
            yield
            return
        links = [Link(trace.get_current_span(parent).get_span_context()) for parent in asked]
        facts: dict[str, str | int] = {"rsrefseg.job_id": chunk_id, "rsrefseg.requests": len(asked)}
        with self._chunks.start_as_current_span("chunk", Context(), SpanKind.CONSUMER, facts, links):
            yield

    def past(self, stage: str, jobs: Sequence[PredictJob], seconds: float, error: str) -> None:
        """Tell of a stage that just ended, in the trace of each request that it was about.

        Args:
            stage: Its name.
            jobs: The requests.
            seconds: How long it took.
            error: What it raised; empty if nothing.
        """
        ended = time.time_ns()
        within = trace.get_current_span().get_span_context()
        links = [Link(within)] if within.is_valid else []
        for job in jobs:
            parent = _parent_of(job)
            if parent is None:
                continue
            span = self._tracer.start_span(
                stage, parent, SpanKind.INTERNAL, _attributes_of(job), links, ended - int(seconds * 1e9)
            )
            if error:
                span.set_status(StatusCode.ERROR, error)
            span.end(ended)


def _attributes_of(job: PredictJob) -> dict[str, str | int | bool]:
    # Neither words nor addresses: what people typed and where their images are is nobody's who reads traces.
    return {
        "rsrefseg.job_id": job.key,
        "rsrefseg.project_id": job.project_id,
        "rsrefseg.task_id": job.task_id,
        "rsrefseg.interactive": job.interactive,
    }


def _context_of(traceparent: str | None) -> Context:
    return _W3C.extract({"traceparent": traceparent} if traceparent else {}, Context())


def _parent_of(job: PredictJob) -> Context | None:
    # None for a request of which nothing is told.
    context = _context_of(job.traceparent)
    return context if trace.get_current_span(context).get_span_context().trace_flags.sampled else None
