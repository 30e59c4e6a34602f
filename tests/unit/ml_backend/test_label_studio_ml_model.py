"""Our model under the official server: the real one where it is installed, and a stand-in that calls as it does."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, jsonify, request
from flask.testing import FlaskClient

from ml_backend.web import Routes
from tests.factories import make_answer, make_image_uri
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.settings import Settings

RECORDED = Path(__file__).parents[2] / "recorded"
CONFIG = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" value="$expression"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""


class StandInBase:
    """What label-studio-ml 2.0.1dev0 does when it makes a model for a request."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)  # type: ignore[attr-defined]
        if not self.get("model_version"):  # type: ignore[attr-defined]
            self.set("model_version", "0.0.1")  # type: ignore[attr-defined]


def stand_in_server(model_class: Callable[..., Any]) -> Flask:
    """Calls a model as label-studio-ml 2.0.1dev0 does."""
    app = Flask("stand-in")

    def make(label_config: str) -> Any:
        return model_class(project_id=str(request.json["project"]).partition(".")[0], label_config=label_config)

    @app.post("/setup")
    def setup() -> Any:
        model = make(request.json["schema"])
        if extra_params := request.json.get("extra_params"):
            model.set_extra_params(extra_params)
        return jsonify({"model_version": model.get("model_version")})

    @app.post("/predict")
    def predict() -> Any:
        params = request.json.get("params", {})
        context = params.pop("context", {})
        return jsonify({
            "results": make(request.json["label_config"]).predict(request.json["tasks"], context, **params)
        })

    @app.post("/webhook")
    def webhook() -> Any:
        data = request.json
        event = data.pop("action")
        model = model_class(str(data["project"]["id"]), label_config=data["project"]["label_config"])
        return jsonify({"result": model.fit(event, data), "status": "ok"}), 201

    return app


@pytest.fixture(params=["stand-in", "real"])
def client(
    request: pytest.FixtureRequest,
    queue: StubQueue,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[FlaskClient]:
    monkeypatch.delitem(sys.modules, "ml_backend.label_studio_ml_model", raising=False)
    serve: Callable[[Any], Flask]
    if request.param == "real":
        monkeypatch.setenv("MODEL_DIR", str(tmp_path))  # where the library lays its memory, which we do not use
        reason = "label-studio-ml is published as a git repository alone: docs/official-server.md"
        serve = pytest.importorskip("label_studio_ml.api", reason=reason).init_app
    else:
        base = ModuleType("label_studio_ml.model")
        base.LabelStudioMLBase = StandInBase  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "label_studio_ml", ModuleType("label_studio_ml"))
        monkeypatch.setitem(sys.modules, "label_studio_ml.model", base)
        serve = stand_in_server
    module = importlib.import_module("ml_backend.label_studio_ml_model")
    held = Routes(settings, queue)  # type: ignore[arg-type]  # behind the same door
    monkeypatch.setattr(module, "routes", lambda: held)
    yield serve(module.RSRefSegModel).test_client()
    sys.modules.pop("ml_backend.label_studio_ml_model", None)


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((RECORDED / f"{name}.json").read_text()))


def predict(tasks: int = 1, **fields: Any) -> dict[str, Any]:
    held = [{"id": n, "data": {"image": make_image_uri(), "expression": "the ship"}} for n in range(1, tasks + 1)]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": held, "project": "3.17", "label_config": CONFIG, "params": params, **fields}


def test_setup_promises_what_workers_serve_now(client: FlaskClient, queue: StubQueue) -> None:
    for version in ("tiny@1", "tiny@2"):
        queue.announce(version)
        assert client.post("/setup", json=recorded("setup")).json == {"model_version": version}
    assert queue.options(3) == '{"expression_field":"expression"}'


def test_tasks_are_taken_and_answered_with_not_yet(client: FlaskClient, queue: StubQueue) -> None:
    assert client.post("/predict", json=predict(3)).json == {"results": [[], [], []]}
    assert [(job.project_id, job.task_id) for job in queue.waiting] == [(3, 1), (3, 2), (3, 3)]


def test_the_request_that_label_studio_really_sends_is_taken(client: FlaskClient, queue: StubQueue) -> None:
    body = recorded("predict")
    assert client.post("/predict", json=body).json == {"results": [[]] * len(body["tasks"])}
    assert {job.task_id for job in queue.waiting} == {task["id"] for task in body["tasks"]}


def test_a_person_who_types_gets_regions(client: FlaskClient, queue: StubQueue) -> None:
    queue.worker = make_answer
    typed = {"id": "x", "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["the ship"]}}
    body = predict(params={"context": {"result": [typed]}})
    [answer] = client.post("/predict", json=body).json["results"]
    assert [region["type"] for region in answer["result"]] == ["brushlabels"]
    assert answer["result"][0]["meta"]["text"] == ["the ship"]


def test_an_event_is_kept(client: FlaskClient, queue: StubQueue) -> None:
    body = recorded("webhook_annotation_created")
    body["project"]["label_config"] = CONFIG
    assert client.post("/webhook", json=body).json == {"result": {"status": "kept"}, "status": "ok"}
    assert [event.action for event in queue.events] == ["ANNOTATION_CREATED"]
