"""The web process as it is started by hand: it comes up, answers whatever Redis does, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from rq import SimpleWorker

from tests.conftest import ImageHost
from tests.factories import make_png
from tests.with_redis.conftest import wait_for
from workers.ports import free_port
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings

RECORDED = Path(__file__).parents[1] / "recorded"


@dataclass
class WebProcess:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=5, trust_env=False)

    def post(self, path: str, recorded: str) -> httpx.Response:
        return httpx.post(self.url + path, content=(RECORDED / recorded).read_bytes(), timeout=10, trust_env=False)

    def peak_mib(self) -> float:
        """The most memory that the process which serves ever had."""
        arbiter = self.process.pid
        [serving] = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
        [line] = [line for line in Path(f"/proc/{serving}/status").read_text().splitlines() if "VmHWM" in line]
        return int(line.split()[1]) / 1024

    def is_up(self) -> bool:
        with suppress(httpx.TransportError):
            return self.get("/health").status_code == 200
        return False


@pytest.fixture
def web(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[WebProcess]:
    port = free_port()
    log = tmp_path / "web.log"
    ours = {"REDIS_URL": redis_server.url, "RSREFSEG_PORT": str(port), "RSREFSEG_OPEN_WAIT_S": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "ml_backend.cli", "web"], env=os.environ | ours, stderr=file)
    web = WebProcess(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_for(web.is_up)
        yield web
    finally:
        process.kill()
        process.wait()
        wait_for(lambda: not web.is_up())  # The process that serves sees that its parent is gone.


def test_it_takes_tasks_and_says_so_in_json_lines(web: WebProcess, queue: JobQueue) -> None:
    assert web.post("/predict", "predict.json").json() == {"results": [[], []]}
    assert queue.counts()["waiting"] == 2
    lines = [json.loads(line) for line in web.log.read_text().splitlines()]
    [taken] = [line for line in lines if line["event"] == "tasks taken"]
    assert (taken["tasks"], taken["new"], taken["project_id"]) == (2, 2, 3)


def test_alive_says_whether_it_takes_requests(web: WebProcess) -> None:
    port = web.url.rpartition(":")[2]
    ask = [sys.executable, "-m", "ml_backend.cli", "alive"]
    assert subprocess.run(ask, env=os.environ | {"RSREFSEG_PORT": port}, check=False).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gone = str(silent.getsockname()[1])
    done = subprocess.run(ask, env=os.environ | {"RSREFSEG_PORT": gone}, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "rsrefseg-backend web" in done.stderr


def test_a_hundred_people_who_ask_at_the_same_moment_all_get_their_mask(
    web: WebProcess, queue: JobQueue, settings: Settings, image_host: ImageHost
) -> None:
    image_host.pages["/data/upload/1/a.png"] = (200, make_png((40, 60)))
    ours = {"REDIS_URL": str(settings.redis_url), "LABEL_STUDIO_URL": settings.label_studio_url}
    ours["LABEL_STUDIO_API_KEY"] = settings.label_studio_api_key.get_secret_value()
    command = [sys.executable, "-m", "workers.cli", "run", "--simulate", "0", "--queue", "interactive"]
    worker = subprocess.Popen(command, env=os.environ | ours)
    typed = json.loads((RECORDED / "predict_typed.json").read_text())

    def ask(task: int) -> dict[str, Any]:
        data = {**typed["tasks"][0]["data"], "image": "/data/upload/1/a.png"}
        body = {**typed, "tasks": [{**typed["tasks"][0], "id": task, "data": data}]}
        response = httpx.post(web.url + "/predict", json=body, timeout=60, trust_env=False)
        return response.raise_for_status().json()["results"][0]

    try:
        wait_for(lambda: SimpleWorker.count(queue=queue.interactive) == 1, timeout_s=120)
        with ThreadPoolExecutor(100) as people:
            predictions = list(people.map(ask, range(1, 101)))
    finally:
        worker.terminate()
        worker.wait(60)
    assert sum(bool(prediction["result"]) for prediction in predictions) == 100
    assert "too many people" not in web.log.read_text()


def annotated(tasks: range) -> Iterator[bytes]:
    """The body of a /predict as a stream: each task has been annotated, in 800 run lengths."""
    request = json.loads((RECORDED / "predict.json").read_text())
    task = request["tasks"][0]
    task["annotations"][0]["result"][0]["value"]["rle"] = list(range(100, 200)) * 8
    text = json.dumps(task).replace('"id": 3,', '"id": %d,', 1)
    yield b'{"tasks": ['
    for number in tasks:
        yield (text % number + ", ").encode()
    yield (text % tasks.stop + "], ").encode()
    yield json.dumps({name: value for name, value in request.items() if name != "tasks"}).encode()[1:]


def test_many_tasks_need_no_more_memory_than_few(web: WebProcess, queue: JobQueue) -> None:
    def send(tasks: range) -> float:
        response = httpx.post(web.url + "/predict", content=annotated(tasks), timeout=200, trust_env=False)
        assert response.json() == {"results": [[]] * (len(tasks) + 1)}
        return web.peak_mib()

    few = send(range(1, 2_000))
    many = send(range(2_001, 42_000))
    assert queue.counts()["waiting"] == 42_000
    assert many - few < 8, "the body has 230 MB"


def test_who_still_sends_hears_why_it_is_in_vain(web: WebProcess, queue: JobQueue) -> None:
    def body() -> Iterator[bytes]:
        whole = annotated(range(1, 2_000))
        yield next(whole)
        yield b'{"id": "one", "data": {}}, '
        yield from whole

    sender = HTTPConnection(web.url.removeprefix("http://"), timeout=60)
    sender.request("POST", "/predict", body())
    response = sender.getresponse()
    assert (response.status, json.load(response)["field"]) == (422, "tasks.0.id")
    sender.close()
    assert queue.counts()["waiting"] == 0


@pytest.mark.parametrize("head", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_of_a_body_that_is_cut_on_its_way_nothing_is_taken(web: WebProcess, queue: JobQueue, head: str) -> None:
    body = b"".join(annotated(range(1, 3)))[:-10]
    if "chunked" in head:
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n"
    with socket.create_connection(("127.0.0.1", int(web.url.rpartition(":")[2])), timeout=60) as sender:
        sender.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
        sender.shutdown(socket.SHUT_WR)
        assert sender.makefile("rb").readline().split()[1] == b"400"
    assert queue.counts()["waiting"] == 0


def test_the_reason_of_a_refusal_is_in_the_status_line(web: WebProcess) -> None:
    body = {"project": "1.2", "schema": "<View/>"}
    response = httpx.post(web.url + "/setup", json=body, trust_env=False)
    assert "no <Image>" in response.reason_phrase


def test_no_secret_of_a_webhook_reaches_the_log_or_redis(web: WebProcess, queue: JobQueue) -> None:
    assert web.post("/webhook", "webhook_annotation_created.json").json() == {"status": "kept"}
    assert web.post("/setup", "setup.json").status_code == 200
    assert "SECRET-TOKEN" not in web.log.read_text()
    assert b"SECRET-TOKEN" not in queue.redis.xrange("rsrefseg:events")[0][1][b"event"]


def test_while_redis_is_away_it_says_so_within_label_studios_second_and_then_goes_on(
    web: WebProcess, redis_server: EmbeddedRedis
) -> None:
    def seconds_until_503(path: str) -> float:
        started = time.monotonic()
        assert web.get(path).status_code == 503
        return time.monotonic() - started

    os.kill(redis_server.pid, signal.SIGKILL)
    for path in ("/health", "/versions"):
        assert min(seconds_until_503(path) for _ in range(3)) < 1
    EmbeddedRedis.start(redis_server.directory)
    wait_for(web.is_up)
    assert web.post("/predict", "predict.json").json() == {"results": [[], []]}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("redis_lives", [True, False])
def test_it_ends_quietly(web: WebProcess, redis_server: EmbeddedRedis, stop: signal.Signals, redis_lives: bool) -> None:
    if not redis_lives:
        os.kill(redis_server.pid, signal.SIGKILL)
    web.process.send_signal(stop)
    assert web.process.wait(10) == 0
    assert "Traceback" not in web.log.read_text()


def test_a_person_who_waits_gets_the_answer_though_the_process_is_asked_to_end(web: WebProcess) -> None:
    request = json.loads((RECORDED / "predict.json").read_text())
    request["tasks"] = request["tasks"][:1]
    client = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import httpx, sys; print(httpx.post(sys.argv[1], content=sys.argv[2], timeout=10, trust_env=False).text)",
            *(web.url + "/predict", json.dumps(request)),
        ],
        stdout=subprocess.PIPE,
    )
    wait_for(lambda: "tasks taken" in web.log.read_text())
    web.process.send_signal(signal.SIGTERM)
    assert json.loads(client.communicate(timeout=10)[0]) == {"results": [[]]}
    assert web.process.wait(10) == 0
