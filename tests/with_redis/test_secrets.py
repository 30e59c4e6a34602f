"""Secrets stay where they belong: not in a log line, an answer, a list, a page, or Redis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
from redis import Redis

from tests.factories import make_png
from tests.faults import CONFIG
from tests.fleet import COURIER, WEB, WORKER, Fleet
from tests.stand_in_label_studio import stand_in_label_studio
from tests.with_redis.conftest import wait_for

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
    """All keys of Redis with their values, as text."""
    held = []
    for key in redis.scan_iter():
        match redis.type(key):
            case b"hash":
                held.append(redis.hgetall(key))
            case b"list":
                held.append(redis.lrange(key, 0, -1))
            case b"set":
                held.append(redis.smembers(key))
            case b"zset":
                held.append(redis.zrange(key, 0, -1))
            case b"string":
                held.append(redis.get(key))
        held.append(key)
    return repr(held)


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
        for command in (WEB, COURIER, (*WORKER, "--simulate", "0.01", "--gpus", "0")):
            fleet.start(*command)
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
            wait_for(lambda: label_studio.predictions and fleet.queue.failures(), 120)
            answers += [
                client.get(path, auth=("me", PASSWORD)) for path in ("/", "/metrics", "/openapi.json", "/counts")
            ]
        listing = [sys.executable, "-m", "workers.cli", "status", "--json"]
        listed = subprocess.run(listing, env=fleet.environ, capture_output=True, text=True, check=True)
        in_redis = everything_in(fleet.queue.redis)
        fleet.dismiss()
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "masks ready" in logs
    said = "".join(answer.text + str(answer.headers) for answer in answers) + listed.stdout + listed.stderr + logs
    for secret in (KEY, PASSWORD, SIGNATURE, SECRET):
        assert secret not in said
    for secret in (KEY, PASSWORD, SECRET):
        assert secret not in in_redis
    assert SIGNATURE not in in_redis, "the request is over, and its failure is listed without the query"
