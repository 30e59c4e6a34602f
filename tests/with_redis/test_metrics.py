"""Metrics as Prometheus fetches them: the fleet from the web process, and all workers of a command at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from ml_backend.courier import Courier
from ml_backend.label_studio import LabelStudio
from ml_backend.web import create_app
from tests.factories import make_answer, make_image_uri, make_job
from tests.stand_in_label_studio import KEY, stand_in_label_studio
from tests.with_redis.conftest import requests_in, wait_for
from workers.failures import Failure, FailureList
from workers.ports import free_port
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


def test_the_web_process_tells_what_the_fleet_has_to_do(queue: JobQueue) -> None:
    client = create_app(queue.settings, queue).test_client()
    queue.submit([make_job(1), make_job(2)])
    client.get("/health")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain")
    assert value(answer.text, "rsrefseg_redis_up") == 1
    assert value(answer.text, "rsrefseg_queue_requests", state="waiting") == 2
    assert value(answer.text, "rsrefseg_project_requests", project="1") == 2
    counted = value(answer.text, "rsrefseg_http_request_seconds_count", route="/health", status="200")
    assert counted is not None
    assert counted >= 1


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_scrape_reads_no_failure_however_many_are_listed(queue: JobQueue) -> None:
    queue.record_failure(Failure.of(make_job(), "predict", "ours", "It broke."))
    queue.redis.set(FailureList.key_of(make_job().key), "what nobody can read")
    answer = create_app(queue.settings, queue).test_client().get("/metrics")
    assert value(answer.text, "rsrefseg_failures_listed") == 1


def test_it_is_measured_once_how_long_a_request_took_from_asking_to_the_stored_prediction(queue: JobQueue) -> None:
    with stand_in_label_studio() as label_studio:
        courier = Courier(queue, LabelStudio(label_studio.url, KEY))
        queue.submit([make_job()])
        [waiting] = requests_in(queue)
        before = counted("rsrefseg_asked_to_delivered_seconds_count")
        calls = counted("rsrefseg_label_studio_calls_total", method="POST", status="201")
        for _ in range(2):
            courier.deliver(make_answer(waiting))
    assert counted("rsrefseg_asked_to_delivered_seconds_count") == before + 1
    assert counted("rsrefseg_label_studio_calls_total", method="POST", status="201") == calls + 1


def test_people_in_the_editor_who_get_no_mask_are_counted_by_the_reason(queue: JobQueue) -> None:
    one_waits = queue.settings.model_copy(update={"web_threads": 1, "interactive_wait_s": 2.0})
    app = create_app(one_waits, queue)
    config = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image"/>
    <BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""

    def type_in(words: str) -> None:
        typed = {"id": "a", "type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": [words]}}
        task = {"id": 7, "data": {"image": make_image_uri()}}
        body = {"project": "1.1", "label_config": config, "tasks": [task], "params": {"context": {"result": [typed]}}}
        answer = app.test_client().post("/predict", json=body)
        assert answer.get_json()["results"][0]["result"] == []

    reasons = ("timeout", "too_many_wait", "unaskable")
    before = [counted("rsrefseg_editor_unserved_total", reason=reason) for reason in reasons]
    first = threading.Thread(target=type_in, args=("the ship",))
    first.start()
    wait_for(lambda: requests_in(queue))
    type_in("the pier")
    type_in("a" * 600)
    first.join()
    after = [counted("rsrefseg_editor_unserved_total", reason=reason) for reason in reasons]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]


def test_what_is_no_route_is_one_label(queue: JobQueue) -> None:
    client = create_app(queue.settings, queue).test_client()
    for path in ("/a", "/b", "/c"):
        client.get(path)
    text = client.get("/metrics").text
    assert {dict(labels)["route"] for name, labels in samples(text) if name.endswith("request_seconds_count")} <= {
        "other",
        *(rule.rule for rule in create_app(queue.settings, queue).url_map.iter_rules()),
    }


def test_metrics_are_behind_the_password(queue: JobQueue) -> None:
    locked = queue.settings.model_copy(update={"basic_user": "me", "basic_password": SecretStr("pw")})
    client = create_app(locked, queue).test_client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", auth=("me", "pw")).status_code == 200


def test_a_redis_that_is_away_is_a_number_and_no_error(tmp_path: Path) -> None:
    with EmbeddedRedis.attach(tmp_path / "redis") as server:
        settings = Settings(redis_url=server.url, data=tmp_path)
        with JobQueue.open(settings) as queue:
            client = create_app(settings, queue).test_client()
            server.stop()
            answer = client.get("/metrics")
    assert answer.status_code == 200
    assert value(answer.text, "rsrefseg_redis_up") == 0


def test_all_workers_of_a_command_are_on_one_address(queue: JobQueue, tmp_path: Path) -> None:
    port = free_port()
    ours = {
        "REDIS_URL": str(queue.settings.redis_url),
        "RSREFSEG_DATA": str(tmp_path),
        "RSREFSEG_METRICS_PORT": str(port),
    }
    command = [sys.executable, "-m", "workers.cli", "run", "--simulate", "0.01", "--gpus", "0,1"]
    diary = tmp_path / "worker.log"
    with diary.open("wb") as log:
        worker = subprocess.Popen(command, env=os.environ | ours, stderr=log)
    try:

        def shown(name: str, **labels: str) -> float:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=5).text
            except httpx.TransportError:
                return -1
            return value(text, name, **labels) or 0

        queue.submit([make_job(number) for number in range(1, 11)])
        wait_for(lambda: shown("rsrefseg_requests_answered_total", outcome="answered") == 10)
        assert shown("rsrefseg_stage_seconds_count", stage="masks") == 1, "they are about one image"
        assert shown("rsrefseg_device_busy_seconds_total") > 0
        assert shown("rsrefseg_stage_seconds_count", stage="queue") >= 1
        held = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=5).text
        assert sum(value for (name, _), value in samples(held).items() if name == "rsrefseg_device_memory_bytes") > 1e6
        for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        wait_for(lambda: shown("rsrefseg_worker_deaths_total", exit_code="-9") == 2)
        assert shown("rsrefseg_requests_answered_total", outcome="answered") == 10, "what the dead counted is kept"
    finally:
        worker.terminate()
        assert worker.wait(timeout=30) == 0
    ready = [line for line in map(json.loads, diary.read_text().splitlines()) if line["event"] == "masks ready"]
    assert len({line["job_id"] for line in ready}) == 10
    for line in ready:
        assert line.keys() >= {"project_id", "task_id", "model_version"}


def test_a_port_that_is_taken_is_said_in_a_sentence(queue: JobQueue, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ours = {
            "REDIS_URL": str(queue.settings.redis_url),
            "RSREFSEG_DATA": str(tmp_path),
            "RSREFSEG_METRICS_PORT": str(taken.getsockname()[1]),
        }
        command = [sys.executable, "-m", "workers.cli", "run", "--simulate", "0"]
        done = subprocess.run(command, env=os.environ | ours, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "RSREFSEG_METRICS_PORT" in done.stderr
    assert "Traceback" not in done.stderr
