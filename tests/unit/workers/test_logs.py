from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, warnings
from structlog.contextvars import bound_contextvars
from workers import logs

logs.configure("INFO")
log = logging.getLogger("workers.test")
with bound_contextvars(task_id=7):
    log.info("mask ready", extra={"seconds": 0.4})
log.debug("too detailed")
logging.getLogger("rq.worker").error("job failed", extra={"arguments": "a-secret", "kwargs": "a-secret"})
logging.getLogger("werkzeug").info("GET /health")
logging.getLogger("httpx").info("GET https://bucket/7.png?signature=a-secret")
try:
    token = "a-secret"
    len(7)
except TypeError:
    log.exception("broken")
warnings.warn("old")
"""


def test_every_line_is_one_json_object_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("workers.test", "info"),
        ("rq.worker", "error"),
        ("werkzeug", "info"),
        ("workers.test", "error"),
        ("py.warnings", "warning"),
    ]
    assert lines[0]["event"] == "mask ready"
    assert (lines[0]["task_id"], lines[0]["seconds"]) == (7, 0.4)
    assert "task_id" not in lines[1]
    assert lines[3]["exception"][0]["exc_type"] == "TypeError"
    assert "a-secret" not in done.stderr
