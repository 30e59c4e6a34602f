"""One request, one trace, from /predict through a worker to the stored prediction; and nothing where it is off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from flask.testing import FlaskClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ml_backend.courier import Courier
from ml_backend.label_studio import LabelStudio
from ml_backend.web import create_app
from tests.factories import make_image_uri, make_job
from tests.loopback import serving
from tests.stand_in_label_studio import KEY, StandInLabelStudio
from tests.with_redis.conftest import CONFIG, answers_in, wait_for
from workers import traces
from workers.ahead import ImagesAhead
from workers.bench import BENCH, Bench
from workers.champions import Champions
from workers.device_use import DeviceUse
from workers.images import ImageFetcher
from workers.leased import Pace, Stop
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.registry import Registry
from workers.settings import Settings
from workers.simulated import SimulatedPredictor
from workers.spans import Spans
from workers.worker import WarmWorker

WORKER_STAGES = {"queue", "fetch", "encode", "masks"}


@pytest.fixture
def label_studio(label_studio: StandInLabelStudio) -> StandInLabelStudio:
    label_studio.config, label_studio.tasks = CONFIG, set(range(1, 9))
    return label_studio


@pytest.fixture
def settings(redis_server: EmbeddedRedis, label_studio: StandInLabelStudio, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_server.url,
        data=tmp_path,
        label_studio_url=label_studio.url,
        label_studio_api_key=KEY,
        open_wait_s=0,
        interactive_wait_s=0.1,
    )


@pytest.fixture
def client(queue: JobQueue) -> FlaskClient:
    return create_app(queue.settings, queue).test_client()


@pytest.fixture(autouse=True)
def _no_bench_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BENCH, "_tools", None)


@contextmanager
def told(share: float = 1.0) -> Iterator[InMemorySpanExporter]:
    """What this process tells, which is web, worker and courier in turn."""
    exporter = InMemorySpanExporter()
    traces.tell(Spans("test", "0", share, SimpleSpanProcessor(exporter)))
    try:
        yield exporter
    finally:
        traces.tell(None)


@contextmanager
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def work_off(queue: JobQueue) -> None:
    """Be a worker until nothing waits."""
    model = SimulatedPredictor(0)
    stop = Stop()
    images = ImagesAhead(ImageFetcher(queue.settings))
    champions = Champions(queue, Registry(queue.settings.data), model, 1)
    BENCH.lay_out(Bench(queue, images, champions, stop, batch_images=4))
    with handlers_as_before():
        WarmWorker(queue, queue.gpu, model.version, "cpu", stop, Pace(), DeviceUse(model)).work(burst=True)


def deliver_all(queue: JobQueue) -> None:
    """Be a courier until nothing waits."""
    courier = Courier(queue, LabelStudio(queue.settings.label_studio_url, KEY))
    for answer in answers_in(queue):
        assert courier.deliver(answer) is None


def ask(client: FlaskClient, *task_ids: int, typed: str = "", **headers: str) -> None:
    tasks = [{"id": number, "data": {"image": make_image_uri(), "expression": "the ship"}} for number in task_ids]
    sent: dict[str, Any] = {"project": "1.1", "label_config": CONFIG, "tasks": tasks, "params": {}}
    if typed:
        typing = {"id": "a", "type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": [typed]}}
        sent["params"] = {"context": {"result": [typing]}}
    assert client.post("/predict", json=sent, headers=headers).status_code == 200


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_one_trace_leads_from_the_call_to_the_stored_prediction(
    client: FlaskClient, queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    with told() as spans:
        ask(client, 7)
        work_off(queue)
        deliver_all(queue)
    assert [one["task"] for one in label_studio.predictions.values()] == [7]
    [call], [request], [chunk] = (named(spans, name) for name in ("/predict", "request", "chunk"))
    assert call.context is not None
    assert request.context is not None
    assert call.parent is None
    assert parent_of(request) == call.context.span_id
    told_of = [span for span in spans.get_finished_spans() if span not in (call, request, chunk)]
    assert {span.name for span in told_of} == {*WORKER_STAGES, "deliver"}
    for span in told_of:
        assert parent_of(span) == request.context.span_id
        assert span.attributes is not None
        assert (span.attributes["rsrefseg.task_id"], span.attributes["rsrefseg.project_id"]) == (7, 1)
    assert {trace_of(span) for span in (call, request, *told_of)} == {call.context.trace_id}
    at = {span.name: span.end_time or 0 for span in told_of}
    assert at["queue"] <= at["fetch"] <= at["encode"] <= at["masks"] <= at["deliver"], "in the order of the road"
    assert [link.context.span_id for link in chunk.links] == [request.context.span_id]
    assert trace_of(chunk) != call.context.trace_id
    assert {link.context.span_id for span in told_of for link in span.links} == {
        chunk.context and chunk.context.span_id
    }


def test_of_many_requests_each_has_its_own_trace_and_their_chunk_leads_to_all(
    client: FlaskClient, queue: JobQueue
) -> None:
    with told() as spans:
        ask(client, 1, 2, 3)
        work_off(queue)
    [call], requests, [chunk] = (named(spans, name) for name in ("/predict", "request", "chunk"))
    assert len({trace_of(span) for span in (call, *requests)}) == 4
    assert {link.context.span_id for span in requests for link in span.links} == {call.context and call.context.span_id}
    assert {link.context.trace_id for link in chunk.links} == {trace_of(span) for span in requests}
    for request in requests:
        mine = {span.name for span in spans.get_finished_spans() if trace_of(span) == trace_of(request)}
        assert mine == {"request", *WORKER_STAGES}


def test_what_is_typed_in_the_editor_is_told_without_its_words(client: FlaskClient, queue: JobQueue) -> None:
    with told() as spans:
        ask(client, 7, typed="the secret pier")
        [waiting] = queue.gpu.get_jobs() or [None]
        assert waiting is None, "nobody answered in time, so it was taken back"
        queue.submit([make_job(8, expressions=("the secret pier",), interactive=True)])
        work_off(queue)
    calls, requests = named(spans, "/predict"), named(spans, "request")
    assert parent_of(requests[0]) == (calls[0].context and calls[0].context.span_id)
    assert {span.name for span in spans.get_finished_spans() if trace_of(span) == trace_of(requests[1])} == {
        "request",
        *WORKER_STAGES,
    }
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())
    assert "data:image" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_a_trace_that_a_caller_began_goes_on_here(client: FlaskClient) -> None:
    with told() as spans:
        ask(client, 7, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        ask(client, 8, traceparent="what is this")
    calls = named(spans, "/predict")
    assert (trace_of(calls[0]), parent_of(calls[0])) == (int("a" * 32, 16), int("b" * 16, 16))
    assert parent_of(calls[1]) is None


def test_a_stage_that_broke_says_so(client: FlaskClient, queue: JobQueue) -> None:
    with told() as spans:
        queue.submit([make_job(7, image_uri="data:image/png;base64,AAAA")])
        work_off(queue)
    [fetch] = named(spans, "fetch")
    assert not fetch.status.is_ok
    assert fetch.status.description == "ImageRefused"


@pytest.mark.parametrize(("share", "requests"), [(0.0, 0), (1.0, 20)])
def test_no_more_is_told_than_the_share(client: FlaskClient, queue: JobQueue, share: float, requests: int) -> None:
    with told(share) as spans:
        queue.submit([make_job(number) for number in range(1, 21)])
        work_off(queue)
    assert len(named(spans, "request")) == len(named(spans, "masks")) == requests
    assert bool(named(spans, "chunk")) == bool(requests)


@pytest.mark.usefixtures("label_studio")
def test_without_the_setting_nothing_is_carried_and_nothing_imported(queue: JobQueue, client: FlaskClient) -> None:
    ask(client, 7)
    work_off(queue)
    [answer] = answers_in(queue)
    assert answer.job.traceparent is None
    code = (
        "import sys, ml_backend.server, ml_backend.courier_worker, workers.predict\n"
        "from workers import traces\nfrom workers.settings import Settings\n"
        "traces.start(Settings(), 'rsrefseg-web')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    imported = set(done.stdout.split())
    assert "ml_backend.server" in imported, done.stderr
    # What redis' client imports of it for metrics of its own, where it is installed, is not ours.
    assert not imported & {"workers.spans", "opentelemetry.sdk.trace", "opentelemetry.exporter"}


def test_a_worker_sends_its_spans_to_the_collector_and_the_last_of_them_as_it_ends(
    queue: JobQueue, tmp_path: Path
) -> None:
    bodies: list[bytes] = []
    lock = Lock()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with lock:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    with serving(Collector) as url:
        ours = {
            "REDIS_URL": str(queue.settings.redis_url),
            "RSREFSEG_DATA": str(tmp_path),
            "RSREFSEG_TRACES_URL": f"{url}/v1/traces",
        }
        with told():
            queue.submit([make_job(7)])
        command = [sys.executable, "-m", "workers.cli", "run", "--simulate", "0"]
        diary = tmp_path / "worker.log"
        with diary.open("wb") as log:
            worker = subprocess.Popen(command, env=os.environ | ours, stderr=log)
        try:
            wait_for(lambda: answers_in(queue))
        finally:
            worker.terminate()
            assert worker.wait(timeout=30) == 0
    sent = [
        (resource.resource, span)
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.name for _, span in sent} == {"chunk", *WORKER_STAGES}
    services = {fact.value.string_value for resource, _ in sent for fact in resource.attributes if "name" in fact.key}
    assert "rsrefseg-worker" in services
    assert not [line for line in map(json.loads, diary.read_text().splitlines()) if line["level"] == "error"]
