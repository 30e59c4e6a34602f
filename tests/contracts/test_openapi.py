"""The description of the routes is of all routes and of no others, and what Label Studio really sends fits it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ml_backend.openapi import openapi
from ml_backend.web import create_app
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.settings import Settings

RECORDED = Path(__file__).parents[1] / "recorded"


def test_every_route_is_described_and_nothing_else() -> None:
    settings = Settings()
    app = create_app(settings, StubQueue(settings))  # type: ignore[arg-type]
    routes = {
        (re.sub(r"<(?:[^:>]*:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in openapi()["paths"].items() for method in methods}
    assert described == routes


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_what_label_studio_sends_fits_the_description(name: str) -> None:
    path = "/" + name.split("_")[0]
    document: dict[str, Any] = openapi()
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**body, "components": document["components"]}
    jsonschema.validate(json.loads((RECORDED / f"{name}.json").read_text("utf-8")), schema)
