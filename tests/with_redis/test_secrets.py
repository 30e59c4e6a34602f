"""Secrets stay where they belong: not in a log line, an answer, a list, a page, or Redis."""

from __future__ import annotations

import base64
import binascii
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
from redis import Redis
from rq.job import JobStatus
from rq.results import Result

from tests.factories import make_job, make_png
from tests.faults import CONFIG
from tests.fleet import COURIER, WEB, WORKER, Fleet
from tests.stand_in_label_studio import stand_in_label_studio
from tests.with_redis.conftest import wait_for
from workers.queue import JobQueue

KEY = "c0ffee" * 6 + "beef"
PASSWORD = "canary-password"
SIGNATURE = "canary-signature"
SECRET = "canary-webhook-secret"


def answers_at(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 401
    except httpx.TransportError:
        return False


def everything_in(redis: Redis) -> str:
    """All keys of Redis with their values, as text; what RQ compresses or encodes is there as well as what is in it."""
    held: list[bytes] = []
    for key in redis.scan_iter():
        held.append(key)
        match redis.type(key):
            case b"hash":
                held += [part for pair in redis.hgetall(key).items() for part in pair]
            case b"list":
                held += redis.lrange(key, 0, -1)
            case b"set":
                held += redis.smembers(key)
            case b"zset":
                held += redis.zrange(key, 0, -1)
            case b"string":
                held.append(redis.get(key) or b"")
            case b"stream":
                held += [part for _, fields in redis.xrange(key) for pair in fields.items() for part in pair]
            case b"none":  # gone since it was listed
                pass
            case other:
                raise AssertionError(f"{other!r} is not looked into")
    return "\n".join(repr(layer) for value in held for layer in layers(value))


def layers(value: bytes) -> Iterator[bytes]:
    """A value, and what it is of which this is the compressed or encoded form."""
    yield value
    with suppress(zlib.error):
        yield from layers(zlib.decompress(value))
    with suppress(binascii.Error):
        if len(value) > 8 and (inner := base64.b64decode(value, validate=True)):
            yield from layers(inner)


def test_the_search_looks_into_what_rq_compresses_and_encodes(queue: JobQueue) -> None:
    queue.submit([make_job(expressions=("canary in flight",))])
    job = queue.gpu.enqueue("workers.predict.reply", "canary in data")
    Result.create(job, Result.Type.SUCCESSFUL, ttl=60, return_value="canary returned")
    Result.create_failure(job, ttl=60, exc_string="canary raised")
    seen = everything_in(queue.redis)
    for canary in ("in flight", "in data", "returned", "raised"):
        assert f"canary {canary}" in seen


def test_secrets_are_in_no_log_no_answer_no_list_and_not_in_redis(tmp_path: Path) -> None:
    with (
        stand_in_label_studio() as label_studio,
        Fleet.gather(
            tmp_path,
            label_studio.url,
            KEY,
            RSREFSEG_BASIC_USER="me",
            RSREFSEG_BASIC_PASSWORD=PASSWORD,
            RSREFSEG_OPEN_WAIT_S="0",
            RSREFSEG_LOG_LEVEL="DEBUG",
        ) as fleet,
    ):
        label_studio.key, label_studio.config, label_studio.tasks = KEY, CONFIG, {1, 2}
        label_studio.images = {"/data/upload/1/1.png": make_png((40, 60))}
        fleet.start(*WEB)
        wait_for(lambda: answers_at(fleet.web_url), 120)
        presigned = f"http://127.0.0.1:9/7.png?X-Amz-Signature={SIGNATURE}"
        tasks = [
            {"id": 1, "data": {"image": "/data/upload/1/1.png", "expression": "the ship"}},
            {"id": 2, "data": {"image": presigned, "expression": "the ship"}},
        ]
        body = {"tasks": tasks, "project": "1.17", "label_config": CONFIG}
        with httpx.Client(base_url=fleet.web_url, trust_env=False, timeout=30) as client:
            answers = [
                client.post("/predict", json=body),  # Without the password.
                client.post("/predict", json=body, auth=("me", PASSWORD + "?")),
                client.post("/predict", json=body, auth=("me", PASSWORD)),
                client.post("/predict", content=b'{"password": "' + PASSWORD.encode(), auth=("me", PASSWORD)),
                client.post(
                    "/webhook",
                    json={"action": "ANNOTATION_CREATED", "project": {"id": 1}},
                    headers={"Authorization": f"Bearer {SECRET}"},
                ),
            ]
            assert [answer.status_code for answer in answers] == [401, 401, 200, 400, 401]
            in_flight = everything_in(fleet.queue.redis)
            raising = [
                fleet.queue.gpu.enqueue("workers.predict.work", "{}"),
                fleet.queue.label_studio.enqueue("ml_backend.courier.deliver", "{}"),
            ]
            for command in (COURIER, (*WORKER, "--simulate", "0.01", "--gpus", "0")):
                fleet.start(*command)
            wait_for(lambda: label_studio.predictions and fleet.queue.failures(), 120)
            wait_for(lambda: all(job.get_status(refresh=True) == JobStatus.FAILED for job in raising), 120)
            answers += [
                client.get(path, auth=("me", PASSWORD)) for path in ("/", "/metrics", "/openapi.json", "/counts")
            ]
        listing = [sys.executable, "-m", "workers.cli", "status", "--json"]
        listed = subprocess.run(listing, env=fleet.environ, capture_output=True, text=True, check=True)
        # The request is over, and its failure is listed without the query; RQ keeps what is done for a second.
        wait_for(lambda: SIGNATURE not in everything_in(fleet.queue.redis), 30)
        in_redis = everything_in(fleet.queue.redis)
        assert in_redis.count("Traceback") >= 2, "of each that raised"
        fleet.dismiss()
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "masks ready" in logs
    said = "".join(answer.text + str(answer.headers) for answer in answers) + listed.stdout + listed.stderr + logs
    for secret in (KEY, PASSWORD, SIGNATURE, SECRET):
        assert secret not in said
    for secret in (KEY, PASSWORD, SECRET):
        assert secret not in in_flight + in_redis
    assert SIGNATURE in in_flight, "a worker has to know where the image is"
