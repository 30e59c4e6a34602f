"""A Label Studio that keeps what projects hold as 1.23.2 does, nothing more, and misbehaves on command."""

from __future__ import annotations

import json
import operator
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.factories import make_image_uri
from tests.loopback import Answering, serving

KEY = "fedcba9876543210fedcba9876543210fedcba98"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""

BACKEND = {"title": "", "state": "CO", "readable_state": "Connected", "auto_update": True, "is_interactive": False}
HOOK = {"send_payload": True, "send_for_all_actions": True, "is_active": True, "headers": {}}

Answer = tuple[int, Any]
Carry = Callable[[], Answer]
Behaviour = Callable[[Carry], Answer | None]
"""What to do about one call, given the means to carry it out; None says nothing and hangs up."""


def answers(status: int) -> Behaviour:
    """Carries nothing out."""
    return lambda _carry: (status, {"detail": "as the test says"})


def hangs_up(_carry: Carry) -> None:
    """Before it did anything."""


def hangs_up_after(carry: Carry) -> None:
    """It did what it was asked, but nobody hears of it."""
    carry()


def carries_out_late(seconds: float) -> Behaviour:
    """Hangs up, and does what it was asked when nobody expects it any more."""

    def behave(carry: Carry) -> None:
        threading.Timer(seconds, carry).start()

    return behave


def is_slow(seconds: float) -> Behaviour:
    """Does as it is asked, after a while."""

    def behave(carry: Carry) -> Answer:
        time.sleep(seconds)
        return carry()

    return behave


def and_then(act: Callable[[], None]) -> Behaviour:
    """Does as it is asked, and something else happens before anybody hears of it."""

    def behave(carry: Carry) -> Answer:
        answer = carry()
        act()
        return answer

    return behave


class Predictions(dict[int, dict[str, Any]]):
    """By their numbers, and found by their task in no time, however many there are."""

    def __init__(self, held: Mapping[int, dict[str, Any]] = {}) -> None:
        super().__init__()
        self.new_number = 1
        """One that nobody has had."""
        self._of: defaultdict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for number, one in held.items():
            self[number] = one

    def __setitem__(self, number: int, one: dict[str, Any]) -> None:
        super().__setitem__(number, one)
        self.new_number = max(self.new_number, number + 1)
        self._of[one["task"]][number] = one

    def pop(self, number: int, default: Any = None) -> Any:
        one = super().pop(number, default)
        if one is not default:
            del self._of[one["task"]][number]
        return one

    def of(self, task: int) -> list[dict[str, Any]]:
        """Those of one task."""
        return list(self._of[task].values()) if task in self._of else []


@dataclass
class StandInLabelStudio:
    """What it holds, and how it will behave."""

    url: str = ""
    key: str = KEY
    config: str = CONFIG
    images: dict[str, bytes] = field(default_factory=dict)
    """Files by their path."""
    tasks: set[int] | range = field(default_factory=lambda: {7, 8})
    """A range where there are many."""
    data: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What tasks hold that are not like the others."""
    page_limit: int = 10_000
    """The most tasks that it lists at once."""
    predictions: Predictions = field(default_factory=Predictions)
    annotations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By their task, which must be changed by `annotate`."""
    updated: dict[int, str] = field(default_factory=dict)
    """When a task last changed, in a number that grows."""
    drafts: set[int] = field(default_factory=set)
    """Tasks that somebody has begun."""
    read: list[int] = field(default_factory=list)
    """Tasks that were read with their annotations, in order."""
    version: str = "1.23.2"
    project: dict[str, Any] = field(default_factory=dict)
    """What is not as in a new project."""
    backends: list[dict[str, Any]] = field(default_factory=list)
    """ML backends of the project, which are never called: their state is what a test says."""
    hooks: list[dict[str, Any]] = field(default_factory=list)
    blocks: tuple[str, ...] = ()
    """Which of "backends" and "webhooks" may not be at private addresses."""
    calls: list[str] = field(default_factory=list)
    """Method and path of every call, in order."""
    most: int = 0
    """The most predictions that it ever held at once."""
    stored: threading.Event = field(default_factory=threading.Event)
    """Set whenever a prediction was stored."""
    away: Behaviour | None = None
    """How it behaves at every call while this is set."""
    _moods: list[tuple[str, Behaviour]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, Predictions(value) if name == "predictions" else value)

    def misbehave(self, method: str, *behaviours: Behaviour) -> None:
        """Behave like this at the next calls of that method about predictions or tasks, one each."""
        self._moods += [(method, behaviour) for behaviour in behaviours]

    def mood(self, method: str, path: str) -> Behaviour:
        """How to behave at this call."""
        with self._lock:
            self.calls.append(f"{method} {path}")
            if self.away:
                return self.away
            for number, (meant, behaviour) in enumerate(self._moods):
                if meant == method and path.startswith(("/api/predictions", "/api/tasks")):
                    del self._moods[number]
                    return behaviour
        return lambda carry: carry()

    def carry_out(self, method: str, url: str, body: dict[str, Any]) -> Answer:
        """Do what a call asks for."""
        address = urlsplit(url)
        with self._lock:
            match method, address.path.strip("/").split("/"):
                case "GET", ["data", *_] if address.path in self.images:
                    return 200, self.images[address.path]
                case "GET", ["api", "current-user", "whoami"]:
                    return 200, {"id": 1, "email": "admin@example.com"}
                case "GET", ["api", "projects", "1"]:
                    return 200, self.as_project()
                case "PATCH", ["api", "projects", "1"]:
                    return self.change_project(body)
                case "GET", ["api", "projects"]:
                    return 200, {"count": 1, "next": None, "results": [{"id": 1, "title": "stand-in"}]}
                case "POST", ["api", "projects"]:
                    self.config = body["label_config"]
                    return 201, {**self.as_project(), **body}
                case "GET", ["api", "projects", "1", "model-versions"]:
                    return 200, self.counts()
                case "GET", ["api", "version"]:
                    return 200, {"release": self.version}
                case _, ["api", "ml", *_] | ["api", "webhooks", *_]:
                    return self.wire(method, address.path.strip("/").split("/")[1:], body)
                case "GET", ["api", "tasks"]:
                    return 200, self.page(parse_qs(address.query))
                case "GET", ["api", "predictions"]:
                    task = int(parse_qs(address.query)["task"][0])
                    if task not in self.tasks:
                        return _invalid("Select a valid choice. That choice is not one of the available choices.")
                    return 200, self.predictions.of(task)
                case "POST", ["api", "predictions"]:
                    if body["task"] not in self.tasks:
                        return _invalid(f'Invalid pk "{body["task"]}" - object does not exist.')
                    number = self.predictions.new_number
                    self.predictions[number] = {"id": number, **body}
                    self.most = max(self.most, len(self.predictions))
                    self.stored.set()
                    return 201, self.predictions[number]
                case "DELETE", ["api", "predictions", number]:
                    return (204, None) if self.predictions.pop(int(number), None) else (404, {"detail": "Not found."})
        return 404, {"detail": "Not found."}

    def as_project(self) -> dict[str, Any]:
        """The project, with what is computed of it."""
        counts = {"task_number": len(self.tasks), "total_predictions_number": len(self.predictions)}
        fresh = {"model_version": "", "show_collab_predictions": True, "sampling": "Sequential sampling"}
        return {"id": 1, "title": "stand-in", "label_config": self.config, **fresh, **counts, **self.project}

    def counts(self) -> dict[str, int]:
        """Predictions of each version, and backends by their titles."""
        titles = {one["title"]: 0 for one in self.backends}
        return titles | Counter(one["model_version"] for one in self.predictions.values())

    def change_project(self, body: dict[str, Any]) -> Answer:
        """As Label Studio does, which shows no version that it does not know."""
        wanted = body.get("model_version", "")
        if wanted and wanted not in self.counts():
            return _invalid("Model version doesn't exist either as live model or as static predictions.")
        self.config = body.get("label_config", self.config)
        self.project |= body
        return 200, self.as_project()

    def wire(self, method: str, where: list[str], body: dict[str, Any]) -> Answer:
        """Backends and webhooks; a new backend brings its webhook."""
        kind, number = where[0], int(where[1]) if len(where) > 1 else None
        rows = self.backends if kind == "ml" else self.hooks
        if method == "GET":
            return 200, rows
        blocked = 403, {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
        if ("backends" if kind == "ml" else "webhooks") in self.blocks:
            return blocked
        if method == "PATCH":
            row = next(row for row in rows if row["id"] == number)
            row |= body
            return 200, row
        row = {"id": len(rows) + 1, **(BACKEND if kind == "ml" else HOOK), **body}
        rows.append(row)
        if kind == "ml":
            self.project["model_version"] = self.project.get("model_version") or row["title"]
            if "webhooks" in self.blocks:
                return blocked
            if "." in row["url"] or "localhost" in row["url"]:
                self.hooks.append({"id": len(self.hooks) + 1, **HOOK, "url": f"{row['url']}/webhook"})
        return 201, row

    def page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Some of the tasks, as the Data Manager's query says; addresses in them are left as they are."""
        asked = json.loads(query["query"][0])
        newer, *others = asked["filters"]["items"]
        if newer["filter"] == "filter:tasks:total_predictions":
            held = sorted({one["task"] for one in self.predictions.values()})
            return {"total": len(held), "tasks": [self._listed(number) for number in held[-1:]]}
        assert (newer["filter"], asked["ordering"]) == ("filter:tasks:id", ["tasks:id"])
        assert query["resolve_uri"] == ["false"]
        if newer["operator"] == "in_list" and others:
            these = [number for number in newer["value"] if number in self.tasks and self._fits(number, others)]
            return {"total": len(these), "tasks": [self._listed(number) for number in these]}
        if newer["operator"] == "in_list":
            these = [number for number in newer["value"] if number in self.tasks]
            listing = self._whole if query.get("fields") == ["all"] else self._listed
            return {"total": len(these), "tasks": [listing(number) for number in these]}
        assert newer["operator"] == "greater"
        listed: Sequence[int] = self.tasks if isinstance(self.tasks, range) else sorted(self.tasks)
        if any(one["operator"] == "greater" for one in others):
            listed = sorted(number for number in self.annotations if number in self.tasks)
        if others:
            listed = [number for number in listed if self._fits(number, others)]
        else:
            assert "tasks:predictions_model_versions" not in asked["hiddenColumns"]["explore"]
        left = listed[bisect_right(listed, newer["value"]) :]
        size = min(int(query["page_size"][0]), self.page_limit)
        return {"total": len(left), "tasks": [self._listed(number) for number in left[:size]]}

    def _fits(self, number: int, filters: Sequence[dict[str, Any]]) -> bool:
        cancelled = [bool(one.get("was_cancelled")) for one in self.annotations.get(number, [])]
        held = {
            "filter:tasks:total_annotations": cancelled.count(False),
            "filter:tasks:cancelled_annotations": cancelled.count(True),
            "filter:tasks:draft_exists": number in self.drafts,
        }
        compare = {"equal": operator.eq, "greater": operator.gt}
        return all(compare[one["operator"]](held[one["filter"]], one["value"]) for one in filters)

    def annotate(self, task: int, *annotations: dict[str, Any]) -> None:
        """Give a task these annotations in place of those that it has."""
        with self._lock:
            self.annotations[task] = list(annotations)
            self.updated[task] = str(int(self.updated.get(task, "0")) + 1)

    def _whole(self, number: int) -> dict[str, Any]:
        self.read.append(number)
        return {
            **self._listed(number),
            "annotations": self.annotations.get(number, []),
            "predictions": self.predictions.of(number),
            "drafts": [{"id": 1, "result": [{"type": "brushlabels"}]}],
        }

    def _listed(self, number: int) -> dict[str, Any]:
        versions = {one["model_version"] for one in self.predictions.of(number)}
        data = self.data.get(number, {"image": make_image_uri(), "expression": "the ship"})
        at = self.updated.get(number, "0")
        return {"id": number, "updated_at": at, "data": data, "predictions_model_versions": ",".join(versions)}


def _invalid(reason: str) -> Answer:
    return 400, {"status_code": 400, "detail": "Validation error", "validation_errors": {"task": [reason]}}


@contextmanager
def stand_in_label_studio(port: int = 0, *, keep_alive: bool = False) -> Iterator[StandInLabelStudio]:
    """Run one on loopback; connections that are kept make it faster, and stay until their clients end."""
    held = StandInLabelStudio()

    class Stands(Answering, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
            if self.headers["Authorization"] != f"Token {held.key}" and self.path != "/api/version":
                return self.tell((401, {"detail": "Invalid token."}))
            behave = held.mood(self.command, urlsplit(self.path).path)
            return self.tell(behave(lambda: held.carry_out(self.command, self.path, body)))

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  The names that http.server looks for.

        def tell(self, answer: Answer | None) -> None:
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.say(status, b"" if body is None else body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Those who do not wait for a slow answer are no error."""

    with serving(Stands, port, Server) as held.url:
        yield held
