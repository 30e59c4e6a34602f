from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rq.timeouts import JobTimeoutException

from rsrefseg.errors import BadRequest
from tests.factories import make_job
from workers import bench
from workers.bench import Bench
from workers.contract import Answer, PredictJob, Refusal
from workers.errors import ImageAway, ImageRefused
from workers.failures import Failure
from workers.predict import predict


class Room:
    """A bench without Redis, network and model, which keeps what it is given."""

    version = "tiny@1"

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.asked: list[list[str]] = []
        self.delivered: list[Answer] = []
        self.failures: list[Failure] = []

    def fetch(self, _uri: str, _task_id: int) -> np.ndarray:
        if self.trouble:
            raise self.trouble
        return np.zeros((6, 8, 3), np.uint8)

    def segment(self, image: np.ndarray, expressions: list[str]) -> list[Any]:
        self.asked.append(expressions)
        return [
            SimpleNamespace(mask=np.full(image.shape[:2], bool(number % 2)), score=0.5, predicted_iou=0.5)
            for number, _ in enumerate(expressions)
        ]

    def deliver(self, answer: Answer) -> None:
        self.delivered.append(answer)

    def record_failure(self, failure: Failure) -> None:
        self.failures.append(failure)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room: Any = Room()
    monkeypatch.setattr(bench, "_laid_out", Bench(queue=room, images=room, predictor=room))
    return room  # type: ignore[no-any-return]


def ask(job: PredictJob) -> Any:
    return predict(job.model_dump_json())


def test_all_expressions_about_an_image_are_asked_together(room: Room) -> None:
    job = make_job(expressions=("the ship", "the pier", "the crane"))
    assert ask(job) is None
    [answer] = room.delivered
    assert room.asked == [["the ship", "the pier", "the crane"]]
    assert [found.expression for found in answer.found] == ["the ship", "the pier", "the crane"]
    assert [bool(found.mask.to_mask().any()) for found in answer.found] == [False, True, False]
    assert answer.model_version == "tiny@1"


def test_an_interactive_answer_goes_back_to_the_asker_and_to_nobody_else(room: Room) -> None:
    reply = Answer.model_validate_json(ask(make_job(interactive=True)))
    assert reply.job.interactive
    assert room.delivered == []


@pytest.mark.parametrize(
    ("trouble", "move", "reason"),
    [
        (ImageRefused("There is no image."), "annotator", "There is no image."),
        (ImageRefused("Set the key.", "ours"), "ours", "Set the key."),
        (ImageAway("The host is down."), "wait", "The host is down."),
        (BadRequest("the expression is empty"), "annotator", "the expression is empty."),
        (JobTimeoutException(), "ours", "RSREFSEG_PREDICT_TIMEOUT_S"),
        (KeyError("a secret"), "ours", "Something of ours broke"),
    ],
)
def test_every_trouble_becomes_a_failure_that_names_the_move(
    room: Room, trouble: Exception, move: str, reason: str
) -> None:
    room.trouble = trouble
    assert ask(make_job()) is None
    [failure] = room.failures
    assert (failure.stage, failure.move) == ("predict", move)
    assert reason in failure.reason
    assert "secret" not in failure.reason


def test_an_interactive_asker_is_told_the_trouble_and_the_list_is_spared(room: Room) -> None:
    room.trouble = ImageRefused("There is no image.")
    reply = Refusal.model_validate_json(ask(make_job(interactive=True)))
    assert reply.reason == "There is no image."
    assert room.failures == []


def test_a_job_outside_a_worker_says_where_it_belongs() -> None:
    with pytest.raises(RuntimeError, match="rsrefseg-worker run"):
        bench.at_hand()
