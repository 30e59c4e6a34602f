"""Requests that nobody would think of: made from the routes' own description, and bodies that are none."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from pathlib import Path

import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as how
from hypothesis import strategies as st
from pydantic import SecretStr
from redis import Redis
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ml_backend.web import create_app
from workers.queue import JobQueue
from workers.settings import Settings

RECORDED = Path(__file__).parent / "recorded"

JUNK = (
    b"",
    b"{",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"null",
    b"[]",
    b'"text"',
    b"NaN",
    b"1e999999",
    b"-" + b"9" * 5_000,
    b"\xff\xfe\x00",
    b'{"project": "\xc3\x28"}',
    b'{"project": "\\ud800", "tasks": [], "label_config": "\\udfff"}',
    b'{"project": "1.1", "project": "2.2", "tasks": []}',
    b'{"project": "1.1", "tasks": {}, "label_config": "<View/>"}',
    b'{"project": "1.1", "schema": "<!DOCTYPE a [<!ENTITY b SYSTEM \\"file:///etc/passwd\\">]><View>&b;</View>"}',
    b'{"project": "99999999999999999999.1", "tasks": [{"id": 1e400, "data": {}}], "label_config": "<View/>"}',
    b'{"tasks": [' + b'{"id": 1, "data": {"a": "' + b"x" * 2_000_000 + b'"}}], "project": "1.1", "label_config": ""}',
    b'{"action": "' + b"A" * 100_000 + b'", "project": {"id": -1}}',
    b'{"action": "ANNOTATION_CREATED", "project": {"id": 18446744073709551616}, "annotation": {"id": 1}}',
    b"\x00" * 1_000,
)
CONTROLS = ("BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels")
CONFIGS = [
    f"""<View><Image name="image" value="$image"/>{words}<{control} name="tag" toName="image">
<Label value="ship"/><Label value="tank" predicted_values="storage tank,silo"/></{control}></View>"""
    for control in CONTROLS
    for words in ("", '<TextArea name="prompt" toName="image" value="$expression"/>')
]
"""Labeling configs that may be asked with."""

PROJECTS = st.integers(1, 40).map(lambda number: f"{number}.1700000000")
TASKS = st.lists(
    st.fixed_dictionaries({
        "id": st.integers(1, 10**9),
        "data": st.fixed_dictionaries(
            {
                "image": st.sampled_from([
                    "/data/upload/1/a.png",
                    "s3://scenes/7.png",
                    "https://tiles.example/7.png?a=b",
                ])
            },
            optional={"expression": st.text(max_size=40), "more": st.none() | st.text(max_size=5)},
        ),
    }),
    max_size=5,
)
FITTING = {
    "POST /predict": st.fixed_dictionaries({
        "label_config": st.sampled_from(CONFIGS),
        "tasks": TASKS,
        "project": PROJECTS,
    }),
    "POST /setup": st.fixed_dictionaries({"schema": st.sampled_from(CONFIGS), "project": PROJECTS}),
}
"""What the description cannot say of a body: random text is never a labeling config."""

USER, PASSWORD = "fuzz", "a right password"
RIGHT = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = ("Basic " + base64.b64encode(b"fuzz:wrong").decode(), "Basic \u00ff", "Bearer " + "a" * 43, "")
CALLERS = st.sampled_from([RIGHT] * 12 + list(WRONG))

TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")
AS_DESCRIBED = [status_code_conformance, content_type_conformance, response_schema_conformance]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND")


def guarded(settings: Settings, redis: Redis) -> Flask:
    """The application with a password and its limits on, as an operator should have it."""
    settings = settings.model_copy(update={"basic_user": USER, "basic_password": SecretStr(PASSWORD)})
    return create_app(settings, JobQueue(redis, settings), redis.connection_pool)


def from_description(app: Flask, requests: int, number: int = 0) -> Counter[tuple[str, int]]:
    """Ask every operation what fits its description, and what does not; each answer has to be as it is described.

    Args:
        app: Whom to ask.
        requests: How many in all, about.
        number: Of chance.

    Returns:
        How often each operation gave each status.
    """
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, headers={"Authorization": RIGHT})
    operations = [found.ok() for found in schema.get_all_operations()]
    # What takes a body can be asked in so many more ways.
    shares = {operation.label: 6 if operation.body else 1 for operation in operations}
    seen: Counter[tuple[str, int]] = Counter()
    for operation in operations:
        most = max(2, requests * shares[operation.label] // sum(shares.values()) // 2)
        for mode in GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)
            if mode is GenerationMode.POSITIVE and operation.label in FITTING:
                cases = st.builds(_fit, cases, FITTING[operation.label], st.sampled_from(["alone", "beside", "not"]))
            _ask(operation.label, cases, most, number, seen)
    return seen


def _fit(case: Case, fields: dict[str, object], how: str) -> Case:
    if how == "alone":
        case.body = fields
    elif how == "beside" and isinstance(case.body, dict):
        case.body = case.body | fields
    return case


def _ask(label: str, cases: object, most: int, number: int, seen: Counter[tuple[str, int]]) -> None:
    @seed(number)
    @how(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, caller=CALLERS)  # type: ignore[arg-type]
    def ask(case: Case, caller: str) -> None:
        answer = case.call(headers={"Authorization": caller} if caller else {})
        seen[label, answer.status_code] += 1
        case.validate_response(answer, checks=AS_DESCRIBED)

    try:
        ask()
    except Exception as exc:
        if type(exc).__name__ != "Unsatisfiable":  # Where nothing can be sent, nothing can be sent wrongly.
            raise


def junk(app: Flask, requests: int, number: int = 0) -> Counter[tuple[str, int]]:
    """Send bodies that are none, and real ones with bytes changed, by all methods to all routes.

    Args:
        app: Whom to send them.
        requests: How many.
        number: Of chance.

    Returns:
        How often each route gave each status.
    """
    chance = random.Random(number)
    client = app.test_client()
    routes = sorted({rule.rule.replace("<string(length=32):name>", "0" * 32) for rule in app.url_map.iter_rules()})
    real = [path.read_bytes() for path in sorted(RECORDED.glob("*.json"))]
    seen: Counter[tuple[str, int]] = Counter()
    for _ in range(requests):
        path = chance.choice([*routes, "/nowhere", "/predict/", "//predict", "/%00", "/thumbnails/..%2f..%2fetc.jpg"])
        body = chance.choice(JUNK) if chance.random() < 0.3 else _broken(chance.choice(real), chance)
        method = "POST" if chance.random() < 0.7 else chance.choice(METHODS)
        headers = {"Authorization": RIGHT if chance.random() < 0.8 else chance.choice(WRONG)}
        headers |= {"Origin": chance.choice(["null", "http://localhost", "\u00e9"])} if chance.random() < 0.2 else {}
        answer = client.open(path, method=method, data=body, content_type=chance.choice(TYPES), headers=headers)
        answer.close()
        seen[path, answer.status_code] += 1
    return seen


def _broken(body: bytes, chance: random.Random) -> bytes:
    sent = json.loads(body)
    for _ in range(chance.randint(0, 3)):
        where = sent
        for _ in range(chance.randint(0, 3)):
            inner = [value for value in _values(where) if isinstance(value, dict | list) and value]
            where = chance.choice(inner) if inner else where
        odd = chance.choice([None, True, -1, 2**70, 1e308, "", "\x00", "\ud800", "é" * 500, [], {}, [[[]]], {"id": {}}])
        if isinstance(where, dict) and where:
            where[chance.choice(list(where))] = odd
        elif isinstance(where, list) and where:
            where[chance.randrange(len(where))] = odd
    text = bytearray(json.dumps(sent).encode())
    for _ in range(chance.choice([0, 0, 0, 1, 5])):
        text[chance.randrange(len(text))] = chance.randrange(256)
    return bytes(text[: chance.choice([len(text), len(text), len(text), len(text) // 2])])


def _values(where: object) -> list[object]:
    return list(where.values()) if isinstance(where, dict) else list(where) if isinstance(where, list) else []
