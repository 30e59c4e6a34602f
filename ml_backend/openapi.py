"""The routes as OpenAPI describes them, made from the models that read the requests."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ml_backend.protocol import PredictRequest, SetupRequest, Task, Webhook

SCHEMAS = "#/components/schemas/"

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong and what to do, in a sentence."},
        "field": {"type": "string", "description": "Where in the request."},
        "id": {"type": "string", "description": "Under which the log has the rest."},
    },
}

PROJECT = {
    "type": ["string", "integer"],
    "pattern": r"^[0-9]+(\.[0-9]+)?$",
    "description": "The project's number, and behind a dot when it was made.",
}

NUMBER = {"type": "integer", "minimum": 0}


def openapi() -> dict[str, Any]:
    """Describe every route.

    Returns:
        An OpenAPI 3.1 document.
    """
    models: list[type[BaseModel]] = [PredictRequest, SetupRequest, Task, Webhook]
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMAS + "{model}")
    schemas: dict[str, Any] = {**found["$defs"], "Error": ERROR}
    predict = schemas["PredictRequest"]
    predict["properties"] = {**predict["properties"], "tasks": {"type": "array", "items": {"$ref": SCHEMAS + "Task"}}}
    for model in ("PredictRequest", "SetupRequest"):
        schemas[model]["properties"]["project"] = PROJECT
    for field in ("annotation", "annotations", "task", "tasks"):  # One of them, or several.
        several = schemas["Webhook"]["properties"][field]
        schemas["Webhook"]["properties"][field] = {"anyOf": [several, several["items"], {"type": "null"}]}
    results = {"type": "object", "properties": {"results": {"type": "array"}}}
    status = {
        "type": "object",
        "properties": {"status": {"const": "UP"}, "model_version": {"type": "string"}},
    }
    setup = {"type": "object", "properties": {"model_version": {"type": "string"}}}
    versions = {"type": "object", "properties": {"versions": {"type": "array", "items": {"type": "string"}}}}
    counts = {
        "type": "object",
        "properties": dict.fromkeys(("waiting", "running", "to_deliver", "failed"), NUMBER),
    }
    kept = {"type": "object", "properties": {"status": {"enum": ["kept", "ignored"]}}}
    form = {
        "type": "object",
        "required": ["project"],
        "properties": {"project": {"type": "integer", "minimum": 1}, "task": {"type": "integer", "minimum": 1}},
    }
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    }
    said = {**name, "name": "said", "in": "query", "required": False}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "RSRefSeg for Label Studio",
            "version": version("rsrefseg"),
            "description": "The ML backend contract of Label Studio 1.23, a page, and numbers for operators.",
        },
        "security": [{"password": []}, {}],
        "paths": {
            "/health": {"get": _asked("Whether requests can be taken.", _json(status))},
            "/setup": {"post": _sent("Check a labeling config.", "SetupRequest", _json(setup))},
            "/predict": {"post": _sent("Ask for masks.", "PredictRequest", _json(results))},
            "/webhook": {"post": _sent("Tell that something happened.", "Webhook", _json(kept))},
            "/versions": {"get": _asked("The model versions that workers announced.", _json(versions))},
            "/counts": {"get": _asked("The requests that are on their way.", _json(counts))},
            "/metrics": {"get": _asked("Numbers for Prometheus.", _of("text/plain"))},
            "/openapi.json": {"get": _asked("This description.", _json({"type": "object"}))},
            "/": {"get": _asked("The status page.", _of("text/html")) | {"parameters": [said]}},
            "/style.css": {"get": _asked("Its style.", _of("text/css"))},
            "/thumbnails/{name}.jpg": {
                "get": _asked("A picture of a prediction.", _of("image/jpeg")) | {"parameters": [name]}
            },
            "/retry": {
                "post": {
                    "summary": "Ask again for what failed.",
                    "requestBody": {
                        "required": True,
                        "content": {"application/x-www-form-urlencoded": {"schema": form}},
                    },
                    "responses": {"303": {"description": "Back to the page, which says what became of it."}, **REFUSED},
                }
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"password": {"type": "http", "scheme": "basic"}},
        },
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _of(media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"type": "string"}}}


REFUSED: dict[str, Any] = {
    status: {"description": description, "content": _json({"$ref": SCHEMAS + "Error"})}
    for status, description in {
        "400": "It cannot be read.",
        "401": "The name and the password of the settings, or a webhook's secret, are missing or wrong.",
        "413": "It is too large.",
        "415": "It is not of the kind that is taken.",
        "422": "A field will not do.",
        "429": "Too many requests; the header Retry-After says when to ask again.",
        "503": "Redis is away or the queue is full; the header Retry-After says when to ask again.",
    }.items()
}


def _asked(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    answers = {code: answer for code, answer in REFUSED.items() if code in {"401", "429", "503"}}
    return {
        "summary": summary,
        "responses": {"200": {"description": "It.", "content": content}, "404": {"description": "Gone."}, **answers},
    }


def _sent(summary: str, model: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json({"$ref": SCHEMAS + model})},
        "responses": {"200": {"description": "Done.", "content": content}, **REFUSED},
    }
