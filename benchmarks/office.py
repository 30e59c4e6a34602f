"""Annotators at work beside bulk work, and what came of it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from fleets import faults

from ml_backend.brush import encode
from tests.squares import png, square

IMAGES = 50
"""Scenes that the tasks are about, in turns."""

IN_BULK = 200
"""Tasks in a request of bulk work."""

PATIENCE_S = 60
"""Longest that anybody waits for an answer of the web process, in seconds."""


@dataclass
class Work:
    """What came of it so far."""

    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from a request of a person to its mask, by phase."""
    empty: int = 0
    """Answers to a person without a mask; the log of the web process says why."""
    errors: Counter[str] = field(default_factory=Counter)
    asked: set[int] = field(default_factory=set)
    """Tasks that were taken by the bulk door, or opened."""
    corrected: int = 0


class Office:
    """Annotators and bulk work.

    Args:
        url: Of the web process.
        label_studio: Where the tasks are.
        tasks: How many there are.
    """

    def __init__(self, url: str, label_studio: Any, tasks: int) -> None:
        self.work = Work()
        self._url = url
        self._label_studio = label_studio
        self._tasks = tasks
        self._lock = threading.Lock()
        scenes = [square(number) for number in range(IMAGES)]
        self._masks = [encode(mask) for _, mask in scenes]
        label_studio.config, label_studio.tasks = faults.CONFIG, range(1, tasks + 1)
        label_studio.images = {_image(number): png(pixels) for number, (pixels, _) in enumerate(scenes)}
        label_studio.data = {task: _data(task) for task in label_studio.tasks}

    def annotate(self, number: int, phase: str, think_s: float, over: threading.Event) -> None:
        """Be one annotator until it is over: open a task, type words, correct the mask, think.

        Args:
            number: Which.
            phase: What the waits are counted under.
            think_s: How long a correction takes, on average.
            over: When to go home.
        """
        chance = random.Random(number)  # noqa: S311
        with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
            over.wait(chance.uniform(0, think_s))  # They do not all arrive at the same moment.
            while not over.is_set():
                task = chance.randrange(1, self._tasks + 1)
                self._post(client, "/predict", _request([task]), [task])
                began = time.perf_counter()
                typed = [{"from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["a pier"]}}]
                said = self._post(client, "/predict", _request([task], {"context": {"result": typed}}))
                if said is not None:
                    self.work.waits[phase].append(time.perf_counter() - began)
                    results = said.json()["results"]
                    self.work.empty += not (isinstance(results[0], dict) and results[0]["result"])
                self._correct(client, task)
                over.wait(chance.expovariate(1 / think_s))

    def ask_in_bulk(self, over: threading.Event) -> None:
        """Keep the queue filled until it is over; after the last task the first is asked for again.

        Args:
            over: When to stop.
        """
        first = 1
        with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
            while not over.is_set():
                if client.get(f"{self._url}/counts").json()["waiting"] > 2 * IN_BULK:
                    over.wait(0.5)
                    continue
                tasks = list(range(first, min(first + IN_BULK, self._tasks + 1)))
                if self._post(client, "/predict", _request(tasks), tasks) is not None:
                    first = tasks[-1] % self._tasks + 1

    def _correct(self, client: httpx.Client, task: int) -> None:
        region = {
            "id": "r1", "from_name": "tag", "to_name": "image", "type": "brushlabels",
            "original_width": 128, "original_height": 128,
            "value": {"format": "rle", "rle": self._masks[task % IMAGES], "brushlabels": ["target"]},
        }  # fmt: skip
        with self._lock:
            self.work.corrected += 1
            annotation = {"id": self.work.corrected, "result": [region], "was_cancelled": False, "prediction": {}}
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        self._label_studio.annotate(task, {**annotation, "task": task, "created_at": now, "updated_at": now})
        event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}, "annotation": {**annotation, "task": task}}
        self._post(client, "/webhook", event)

    def _post(
        self, client: httpx.Client, path: str, body: dict[str, Any], tasks: Sequence[int] = ()
    ) -> httpx.Response | None:
        try:
            answer = client.post(self._url + path, json=body)
        except httpx.TransportError as exc:
            self.work.errors[type(exc).__name__] += 1
            return None
        if not answer.is_success:
            self.work.errors[f"{path} {answer.status_code}"] += 1
            return None
        self.work.asked.update(tasks)
        return answer


def _image(number: int) -> str:
    return f"/data/upload/1/{number % IMAGES}.png"


def _data(task: int) -> dict[str, str]:
    return {"image": _image(task), "expression": "the building"}


def _request(tasks: Sequence[int], params: dict[str, Any] | None = None) -> dict[str, Any]:
    sent = [{"id": task, "data": _data(task)} for task in tasks]
    return {"tasks": sent, "project": "1.17", "label_config": faults.CONFIG, "params": params or {}}
