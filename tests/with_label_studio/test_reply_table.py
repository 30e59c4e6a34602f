"""What Label Studio 1.23.2 makes of each kind of answer to /predict; our own answers rest on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from tests.loopback import Answering, serving
from tests.with_label_studio.conftest import BRUSH_CONFIG, Project, create_project

VERSION = "stand-in@1"
MARK = {"result": [{"from_name": "mask"}]}
"""A prediction; Label Studio does not look at its regions here."""

Reply = Callable[[int], Any]
"""What a backend answers to so many tasks."""


@dataclass
class StandInBackend:
    """An ML backend that answers whatever a test says."""

    url: str = ""
    reply: Reply = lambda tasks: {"results": [[]] * tasks}
    asked: list[int] = field(default_factory=list)
    """With how many tasks each /predict came."""


@pytest.fixture
def backend() -> Iterator[StandInBackend]:
    backend = StandInBackend()

    class Answers(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(200, {"status": "UP"})

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/predict":
                self.say(200, {"model_version": VERSION})
                return
            backend.asked.append(len(sent["tasks"]))
            answer = backend.reply(len(sent["tasks"]))
            self.say(500 if answer is None else 200, answer)

    with serving(Answers) as backend.url:
        yield backend


@pytest.fixture(scope="module")
def shared(api: httpx.Client) -> Project:
    """A project of three tasks; whoever uses it leaves it without predictions and without a backend."""
    project = create_project(api, BRUSH_CONFIG, "Replies")
    project.add(*[{"image": f"https://images.example.org/{n}.png", "expression": "the ship"} for n in range(3)])
    return project


@pytest.fixture
def connected(shared: Project, backend: StandInBackend) -> Iterator[Project]:
    added = shared.connect(backend.url).raise_for_status().json()
    yield shared
    for prediction in shared.predictions():
        shared.api.delete(f"/api/predictions/{prediction['id']}/").raise_for_status()
    shared.api.delete(f"/api/ml/{added['id']}").raise_for_status()


def first(prediction: Any) -> Reply:
    """This for the first task, and "not yet" for the others."""
    return lambda tasks: {"results": [prediction] + [[]] * (tasks - 1)}


@pytest.mark.parametrize(
    ("reply", "stored"),
    [
        (lambda tasks: {"results": [MARK] * tasks}, 3),
        (lambda tasks: {"results": [[MARK, MARK]] * tasks}, 6),
        (lambda tasks: {"results": [[]] * tasks}, 0),
        (lambda tasks: {"results": []}, 0),
        (lambda tasks: [], 0),
        (lambda tasks: {"answers": []}, 0),
        (lambda tasks: {"results": [{"score": 0.5}] * tasks}, 0),
        (lambda tasks: {"results": [{"result": []}] * tasks}, 3),
        (lambda tasks: {"results": [MARK] * 2}, 0),
        (lambda tasks: None, 0),
    ],
    ids=[
        "a prediction a task",
        "two predictions a task",
        "not yet",
        "no results",
        "no object",
        "no key results",
        "no result",
        "an empty result",
        "fewer than tasks",
        "an error",
    ],
)
def test_what_is_stored_of_an_answer_that_label_studio_lives_with(
    connected: Project, backend: StandInBackend, reply: Reply, stored: int
):
    backend.reply = reply
    connected.retrieve()
    assert backend.asked == [3]
    predictions = connected.predictions()
    assert len(predictions) == stored
    assert {one["model_version"] for one in predictions} <= {VERSION}
    assert {one["score"] for one in predictions} <= {None}


def test_a_single_answer_to_several_tasks_makes_label_studio_ask_one_by_one(
    connected: Project, backend: StandInBackend
):
    backend.reply = lambda _tasks: {"results": [MARK]}
    connected.retrieve()
    assert backend.asked == [3, 1, 1, 1]
    assert len(connected.predictions()) == 3


@pytest.mark.parametrize(
    ("prediction", "status"),
    [
        ({"result": None}, 400),
        ({**MARK, "score": "high"}, 400),
        ({**MARK, "model_version": None}, 400),
        (None, 500),
    ],
    ids=["result null", "a score that is no number", "model version null", "null"],
)
def test_an_answer_that_label_studio_breaks_over_stores_nothing(
    connected: Project, backend: StandInBackend, prediction: Any, status: int
):
    backend.reply = first(prediction)
    everything = {"selectedItems": {"all": True, "excluded": []}}
    where = {"id": "retrieve_tasks_predictions", "project": connected.id}
    assert connected.api.post("/api/dm/actions", params=where, json=everything).status_code == status
    assert connected.predictions() == []


def test_a_task_that_has_a_prediction_of_the_promised_version_is_not_asked_about_again(
    connected: Project, backend: StandInBackend
):
    backend.reply = first({**MARK, "model_version": VERSION, "score": 0.25})
    connected.retrieve()
    connected.retrieve()
    assert backend.asked == [3, 2]
    assert [one["score"] for one in connected.predictions()] == [0.25, 0.25]
