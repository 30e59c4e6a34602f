from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from rq.timeouts import JobTimeoutException
from structlog.contextvars import get_contextvars

from rsrefseg.errors import BadRequest
from tests.factories import make_job
from workers.ahead import ImagesAhead
from workers.bench import BENCH, Bench
from workers.contract import Answer, Chunk, PredictJob, Refusal
from workers.errors import ImageAway, ImageRefused, JobStopped, NoRoom
from workers.failures import Failure
from workers.leased import Stop
from workers.notices import Sketch
from workers.pipeline import Pipeline
from workers.predict import reply, work
from workers.settings import Settings


class Room:
    """A bench without Redis, network and model, which keeps what it is given."""

    version = "tiny@1"

    def __init__(self) -> None:
        self.settings = Settings(chunk_s=60)
        self.image_trouble: dict[str, Exception] = {}
        """What fetching an image raises, by its address."""
        self.too_large: set[str] = set()
        """Images that are not decoded before they are wanted."""
        self.is_full = False
        self.fetched: list[tuple[str, bool]] = []
        self.trouble: dict[str, BaseException] = {}
        """What asking for an expression raises."""
        self.memory = 99
        """How many images can be encoded at once."""
        self.encoded: list[int] = []
        """How many images were encoded at once, each time."""
        self.asked: list[list[str]] = []
        self.score = 0.9
        self.looked_again = 0
        self.looking_trouble: Exception | None = None
        self.sketches: dict[int, Sketch] = {}
        self.delivered: list[Answer] = []
        self.failures: list[Failure] = []
        self.back: list[tuple[list[int], str, int]] = []
        """The tasks that were put back, where to, and how often their image was away."""
        self.person_waits = False
        self.stop = Stop()
        self.bench = Bench(self, ImagesAhead(self), self, self.stop)  # type: ignore[arg-type]

    def fetch(self, uri: str, _task_id: int, *, if_room: bool) -> np.ndarray:
        self.fetched.append((uri, if_room))
        if if_room and uri in self.too_large:
            raise NoRoom
        if uri in self.image_trouble:
            raise self.image_trouble[uri]
        return np.zeros((6, 8, 3), np.uint8)

    def of(self, _project_id: int) -> Room:
        return self

    def encode_all(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(images) > self.memory:
            raise MemoryError
        self.encoded.append(len(images))
        return list(images)

    def segment(self, image: np.ndarray, expressions: list[str], _pointings: object = None) -> list[Any]:
        self.asked.append(expressions)
        for expression in expressions:
            if expression in self.trouble:
                raise self.trouble[expression]
        return [
            SimpleNamespace(mask=np.full(image.shape[:2], bool(number % 2)), score=self.score, predicted_iou=0.5)
            for number, _ in enumerate(expressions)
        ]

    def look_again(self, _image: np.ndarray, segments: Sequence[Any]) -> list[Any]:
        self.looked_again += 1
        if self.looking_trouble:
            raise self.looking_trouble
        return [SimpleNamespace(**{**vars(one), "score": 0.125}) for one in segments]

    def sketch(self, image: np.ndarray) -> np.ndarray:
        return np.full(64, 1 / 8, np.float16)

    def keep_sketch(self, _project_id: int, task_id: int, sketch: Sketch) -> None:
        self.sketches[task_id] = sketch

    def somebody_waits(self) -> bool:
        return self.person_waits

    def still_held(self, chunk: Chunk, _chunk_id: str) -> list[PredictJob]:
        return list(chunk.requests)

    def put_back(
        self, jobs: Sequence[PredictJob], _chunk_id: str, place: str, *, tries: int = 0, in_s: float = 0
    ) -> None:
        self.back.append(([job.task_id for job in jobs], place, tries))

    def deliver(self, answer: Answer) -> None:
        self.delivered.append(answer)

    def record_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def run(self, *jobs: PredictJob, tries: int = 0, died: bool = False) -> list[int]:
        """Let a chunk go through, and say which tasks were answered."""
        Pipeline(self.bench, Chunk(requests=jobs, tries=tries), "chunk-1", died=died).run()
        return [answer.job.task_id for answer in self.delivered]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room()
    monkeypatch.setattr(BENCH, "_tools", room.bench)
    return room


def of_image(task_id: int, image: str, *expressions: str) -> PredictJob:
    return make_job(task_id, expressions=expressions or ("the ship",), image_uri=f"/data/{image}.png")


def test_all_expressions_about_an_image_are_asked_together(room: Room) -> None:
    assert room.run(of_image(1, "a", "the ship", "the pier"), of_image(2, "a", "the crane")) == [1, 2]
    assert room.encoded == [1]
    assert room.asked == [["the ship", "the pier", "the crane"]]
    first, second = room.delivered
    assert [found.expression for found in first.found] == ["the ship", "the pier"]
    assert [bool(found.mask.to_mask().any()) for found in first.found] == [False, True]
    assert [found.expression for found in second.found] == ["the crane"]
    assert first.model_version == "tiny@1"


def test_images_that_are_there_are_encoded_together(room: Room) -> None:
    room.bench.batch_images = 3
    jobs = [of_image(number, str(number)) for number in range(6)]
    for job in jobs:
        room.bench.images.begin([job])
    while not all(room.bench.images.is_there(job) for job in jobs):
        pass
    assert room.run(*jobs) == [0, 1, 2, 3, 4, 5]
    assert room.encoded == [3, 3]


def test_a_batch_is_no_larger_than_a_person_may_wait_for_it(room: Room) -> None:
    room.bench.batch_images = 8
    jobs = [of_image(number, str(number)) for number in range(12)]
    for job in jobs:
        room.bench.images.begin([job])
    while not all(room.bench.images.is_there(job) for job in jobs):
        pass
    encode_all = room.encode_all
    room.encode_all = lambda images: [time.sleep(0.15 * len(images)), *encode_all(images)][1:]  # type: ignore[method-assign]
    assert room.run(*jobs) == list(range(12))
    assert room.encoded[0] == 8, "nobody knows yet how long an image takes"
    assert max(room.encoded[1:]) <= 3
    assert room.bench.batch_images == 8, "as the memory allows"


def test_a_batch_too_large_for_the_memory_is_halved_and_later_ones_are_smaller(room: Room) -> None:
    room.bench.batch_images, room.memory = 8, 2
    jobs = [of_image(number, str(number)) for number in range(16)]
    assert room.run(*jobs) == list(range(16))
    assert max(room.encoded) <= 2
    assert room.bench.batch_images <= 2 or len(room.encoded) == 16
    assert room.failures == []


def test_an_image_that_no_memory_is_enough_for_is_refused_with_what_to_do(room: Room) -> None:
    room.memory = 0
    room.run(of_image(1, "a"))
    [failure] = room.failures
    assert failure.move == "ours"
    assert "RSREFSEG_DTYPE" in failure.reason


def test_an_image_that_there_is_no_memory_to_decode_is_refused_with_what_to_do(room: Room) -> None:
    room.image_trouble["/data/b.png"] = MemoryError()
    assert room.run(of_image(1, "a"), of_image(2, "b"), of_image(3, "c")) == [1, 3]
    [failure] = room.failures
    assert (failure.task_id, failure.move) == (2, "ours")
    assert "RSREFSEG_IMAGE_MEMORY_LIMIT" in failure.reason


def test_an_image_too_large_to_be_fetched_ahead_is_fetched_when_its_turn_comes(room: Room) -> None:
    room.too_large = {"/data/b.png", "/data/c.png"}
    assert room.run(of_image(1, "a"), of_image(2, "b"), of_image(3, "c"), of_image(4, "d")) == [1, 2, 3, 4]
    assert [uri for uri, if_room in room.fetched if not if_room] == ["/data/b.png", "/data/c.png"]
    assert room.failures == []


def test_with_enough_images_in_memory_no_further_one_is_begun(room: Room) -> None:
    room.is_full = True
    assert not room.bench.images.begin([of_image(1, "a")])
    assert room.run(of_image(1, "a"), of_image(2, "b")) == [1, 2]


@pytest.mark.parametrize(
    ("trouble", "move", "reason"),
    [
        (BadRequest("the expression is empty"), "annotator", "the expression is empty."),
        (JobTimeoutException(), "ours", "RSREFSEG_PREDICT_TIMEOUT_S"),
        (KeyError("a secret"), "ours", "Something of ours broke"),
    ],
)
def test_one_request_that_breaks_is_refused_alone(room: Room, trouble: Exception, move: str, reason: str) -> None:
    room.trouble["the wreck"] = trouble
    jobs = [of_image(1, "a"), of_image(2, "a", "the wreck"), of_image(3, "a"), of_image(4, "b")]
    assert sorted(room.run(*jobs)) == [1, 3, 4]
    [failure] = room.failures
    assert (failure.task_id, failure.stage, failure.move) == (2, "predict", move)
    assert reason in failure.reason
    assert "secret" not in failure.reason


@pytest.mark.parametrize(
    ("trouble", "move", "reason"),
    [
        (ImageRefused("There is no image."), "annotator", "There is no image."),
        (ImageRefused("Set the key.", "ours"), "ours", "Set the key."),
        (TimeoutError(), "ours", "RSREFSEG_PREDICT_TIMEOUT_S"),
        (KeyError("a secret"), "ours", "Something of ours broke"),
    ],
)
def test_an_image_that_cannot_be_had_is_refused_alone(room: Room, trouble: Exception, move: str, reason: str) -> None:
    room.image_trouble["/data/b.png"] = trouble
    assert room.run(of_image(1, "a"), of_image(2, "b"), of_image(3, "c")) == [1, 3]
    [failure] = room.failures
    assert (failure.task_id, failure.stage, failure.move) == (2, "predict", move)
    assert reason in failure.reason
    assert "secret" not in failure.reason


def test_a_worker_whose_gpu_is_lost_ends_and_refuses_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os._exit", sys.exit)
    room.trouble["the wreck"] = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(SystemExit):
        room.run(of_image(1, "a", "the wreck"), of_image(2, "b"))
    assert room.failures == []


def test_an_image_that_is_away_is_put_back_for_later_until_it_was_away_too_often(room: Room) -> None:
    room.image_trouble["/data/b.png"] = ImageAway("The host is down.")
    assert room.run(of_image(1, "a"), of_image(2, "b")) == [1]
    assert room.back == [([2], "later", 1)]
    assert room.failures == []
    room.run(of_image(2, "b"), tries=ImageAway.tries)
    [failure] = room.failures
    assert (failure.move, failure.reason) == ("wait", "The host is down.")


def test_a_person_who_waits_is_served_after_the_batch_in_hand(room: Room) -> None:
    room.person_waits = True
    jobs = [make_job(number, image_uri=f"/data/{number}.png") for number in range(1, 5)]
    assert room.run(*jobs) == [1]
    assert room.back == [([2, 3, 4], "head of line", 0)]


def test_what_there_is_no_time_for_is_put_back(room: Room) -> None:
    room.settings = Settings(chunk_s=0.000001)
    room.run(of_image(1, "a"), of_image(2, "b"), of_image(3, "c"), of_image(4, "c"))
    done = len(room.delivered)
    assert room.back == [([1, 2, 3, 4][done:], "head of line", 0)]


def test_who_is_asked_to_end_puts_back_what_is_not_begun(room: Room) -> None:
    room.stop.asked = True
    assert room.run(of_image(1, "a"), of_image(2, "b")) == []
    assert room.back == [([1, 2], "head of line", 0)]


def test_after_a_death_each_image_that_was_in_hand_gets_a_chunk_of_its_own(room: Room) -> None:
    jobs = [of_image(number, str(number // 2)) for number in range(20)]
    assert room.run(*jobs, died=True) == []
    rest, *alone = room.back
    assert rest == (list(range(10, 20)), "head of line", 0)
    assert [tasks for tasks, _, _ in alone] == [[8, 9], [6, 7], [4, 5], [2, 3], [0, 1]], "the first is put first, last"
    room.back.clear()
    assert room.run(*jobs[:2], died=True) == []
    assert [tasks for tasks, _, _ in room.back] == [[1], [0]], "then each request about it"
    assert room.run(jobs[0], died=True) == [0], "then it is tried again"


def test_who_stops_a_chunk_stops_what_is_in_hand_and_nothing_else(room: Room) -> None:
    room.trouble["the wreck"] = JobStopped()
    with pytest.raises(JobStopped):
        room.run(of_image(1, "a"), of_image(2, "b", "the wreck"), of_image(3, "c"))
    assert [answer.job.task_id for answer in room.delivered] == [1]
    assert room.back == [([3], "head of line", 0)]


def test_an_interactive_answer_goes_back_to_the_asker_and_to_nobody_else(room: Room) -> None:
    answer = Answer.model_validate_json(reply(make_job(interactive=True).model_dump_json()))
    assert answer.job.interactive
    assert room.delivered == []


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(ImageRefused("There is no image."), "There is no image."), (ImageAway("It is down."), "It is down.")],
)
def test_an_interactive_asker_is_told_the_trouble_and_the_list_is_spared(
    room: Room, trouble: Exception, reason: str
) -> None:
    job = make_job(interactive=True)
    room.image_trouble[job.image_uris[0]] = trouble
    assert Refusal.model_validate_json(reply(job.model_dump_json())).reason == reason
    assert room.failures == []
    assert room.back == []


def test_a_job_outside_a_worker_says_where_it_belongs() -> None:
    with pytest.raises(RuntimeError, match="rsrefseg-worker run"):
        BENCH.take()
    with pytest.raises(RuntimeError, match="rsrefseg-worker run"):
        work(Chunk(requests=(make_job(),)).model_dump_json())


def test_a_request_about_two_images_gets_each_mask_from_its_own(room: Room) -> None:
    job = make_job(image_uris=("/data/a.png", "/data/b.png"))
    first, second = (job.asks[0].model_copy(update={"expression": words}) for words in ("the ship", "the pier"))
    job = job.model_copy(update={"asks": (second.model_copy(update={"image": 1}), first, second)})
    assert room.run(job, of_image(2, "a", "the crane")) == [7, 2]
    assert room.asked == [["the ship", "the pier"], ["the pier"], ["the crane"]]
    assert [found.expression for found in room.delivered[0].found] == ["the pier", "the ship", "the pier"]


def test_a_share_of_the_uncertain_answers_gets_a_second_look(room: Room) -> None:
    room.settings = Settings(chunk_s=60, second_look=0.25)
    room.score = 0.5
    room.run(*(of_image(number, str(number)) for number in range(20)))
    assert room.looked_again == 5
    assert [answer.score for answer in room.delivered].count(0.125) == 5
    assert len(room.delivered) == 20


@pytest.mark.parametrize(("score", "share"), [(0.9, 1.0), (0.1, 1.0), (0.5, 0.0)])
def test_sure_answers_and_those_of_no_share_do_not(room: Room, score: float, share: float) -> None:
    room.settings = Settings(chunk_s=60, second_look=share)
    room.score = score
    room.run(*(of_image(number, str(number)) for number in range(10)))
    assert room.looked_again == 0


def test_nobody_who_waits_waits_for_a_second_look(room: Room) -> None:
    room.settings = Settings(chunk_s=60, second_look=1.0)
    room.score = 0.5
    assert Answer.model_validate_json(reply(of_image(1, "a").model_dump_json())).score == 0.5
    assert room.looked_again == 0


def test_a_second_look_that_breaks_leaves_the_first(room: Room) -> None:
    room.settings = Settings(chunk_s=60, second_look=1.0)
    room.score = 0.5
    room.looking_trouble = RuntimeError("the mirror broke")
    assert room.run(of_image(1, "a")) == [1]
    assert room.delivered[0].score == 0.5
    assert room.failures == []


def test_what_a_task_looks_like_is_kept_with_what_was_found(room: Room) -> None:
    room.run(of_image(3, "a", "the ship", "the pier"))
    sketch = room.sketches[3]
    assert np.linalg.norm(sketch.vector.astype(float)) == pytest.approx(1, abs=1e-3)
    assert (sketch.score, sketch.model_version) == (0.9, "tiny@1")
    assert sketch.labels == {"target"}


def test_what_is_refused_in_the_editor_is_counted_and_each_line_names_the_version(room: Room) -> None:
    said: list[tuple[str, str]] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.getMessage(), get_contextvars().get("model_version", "")))

    refused = REGISTRY.get_sample_value("rsrefseg_requests_answered_total", {"outcome": "refused_annotator"}) or 0
    room.image_trouble["/data/gone.png"] = ImageRefused("It is gone.")
    log = logging.getLogger("workers.predict")
    listening = Listening()
    log.addHandler(listening)
    log.setLevel(logging.INFO)
    try:
        reply(make_job(1, interactive=True, image_uri="/data/gone.png").model_dump_json())
        reply(make_job(2, interactive=True, image_uri="/data/there.png").model_dump_json())
    finally:
        log.removeHandler(listening)
    assert said == [("refused", "tiny@1"), ("masks ready", "tiny@1")]
    after = REGISTRY.get_sample_value("rsrefseg_requests_answered_total", {"outcome": "refused_annotator"})
    assert after == refused + 1


def test_a_batch_is_timed_to_the_end_of_what_its_gpu_does(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[list[int]] = []
    gpu = SimpleNamespace(is_initialized=lambda: True, synchronize=lambda: waited.append(list(room.encoded)))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpu))
    room.run(of_image(1, "a"))
    assert waited == [[1]], "after the batch was begun"
